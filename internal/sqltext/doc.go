// Package sqltext reads SQL as text, by SQLite's lexical rules: tokens, where
// one statement ends and the next begins, parameters, leading keywords, SET
// and SHOW, and which names a statement mentions.
//
// It owns no grammar: what a statement means is SQLite's to say. Everything
// here is a pure function of its input, never panics, and allocates only what
// it returns. It imports nothing of this module.
package sqltext
