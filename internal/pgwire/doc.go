// Package pgwire is the PostgreSQL front end: protocol 3.0 and 3.2 over TCP and
// TLS, in front of a session.Gateway. The wire is PostgreSQL's, the dialect is
// SQLite's, and errors say so.
//
// It owns client connections: framing, authentication, prepared statements,
// portals and cursors, transaction status as PostgreSQL clients expect it, types
// on the wire, COPY, settings, and cancelling. It never sees the engine:
// statements run through session.Session, the catalog queries of psql and
// drivers through package catalogue, which builds its tables from
// Session.Schema.
//
// Invariants: one goroutine owns a connection, and no other touches it but to
// interrupt it; every message, buffer, statement and portal is bounded; after
// an error nothing runs until the client has synchronised; a connection that
// ends, however it does, closes its session, and with it its transaction.
//
// docs/pgwire.md says what is supported.
package pgwire
