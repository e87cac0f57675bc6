// Package choice writes the triggers by which a database of the trigger format
// says what it sends to partial replicas: which tables, which of their columns,
// and which rows.
//
// It owns the names and the text of these triggers. Invariant: whatever a
// choice is, a row that comes into it is sent, one that leaves it is taken
// back, and one whose key changes is taken back under the old key.
//
// It is pure: it imports sqltext and base only.
package choice
