// Package e2e tests Skein as its users meet it: real processes of the skein
// binary, certificates, ports and disks, asked with psql, pgbench, sqlite3 and a
// driver, and hurt with signals.
//
// It owns no product code. Invariants: every test has processes, ports and
// folders of its own; a process is only ever signalled by its pid and dies with
// the test binary; a data folder is never removed before its process has ended;
// waiting is asking until a deadline.
//
// Only a short part runs by default. SKEIN_E2E=1 runs everything, and
// SKEIN_E2E_LONG=1 makes some waits as long as a person's patience.
package e2e
