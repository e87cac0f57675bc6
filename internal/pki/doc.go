// Package pki owns a cluster's certificate authority and the certificates it
// issues: what is in them, how they are kept in files, and how a peer's is
// checked.
//
// Who a node is stands in one URI name of its certificate,
// skein://CLUSTER/node/NODE, both as 16 hexadecimal digits; the common name
// and host names are never read for that. A server certificate, for clients,
// has no such name and is refused as a node's.
//
// Invariants: a key lies only in files that others cannot read; a certificate
// and its key are replaced in one step, because they share one file; an
// authority's key is never overwritten.
//
// Time and randomness are arguments and files come from env.FS. The package
// opens no socket and starts no goroutine.
package pki
