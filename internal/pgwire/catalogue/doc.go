// Package catalogue answers the queries that psql and drivers send on
// pg_catalog and information_schema, and the functions of PostgreSQL that they
// call without a table: version(), current_schema() and the like.
//
// It reads the schema of a session's database, lays it out as the relations of
// PostgreSQL 15 in a SQLite database in memory, rewrites the query token by
// token into SQLite's dialect, and runs it there, under the guard for clients
// that only read. What the rewriter has no rule for is recognised as a whole,
// or fails with SQLite's error. All relations of PostgreSQL 15 exist; most are
// empty.
//
// It owns those databases in memory, one for each schema that it has met,
// bounded in number. It never sees the engine of the database itself: it reads
// through session.Session.Schema.
//
// Invariants: what a client's query returns depends on the schema, the users
// and databases and the client alone; a schema of an open transaction is never
// kept for others; memory and time of a query are bounded.
package catalogue
