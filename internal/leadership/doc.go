// Package leadership is the pure core of the single-leader model: who may
// lead, when a write counts, how long a leader may trust itself, what a
// follower accepts and where two histories part. Package failover holds the
// other half, the elections.
//
// It owns no clock, socket, file or goroutine, iterates over nothing in map
// order and imports base alone: the same calls give the same answers. Every
// method that depends on time is given now, an Instant of the caller's own
// monotonic clock; instants of two nodes are never compared.
//
// # Rules
//
//  1. Epochs. The control plane records for every database its epoch, its
//     leader, the replicas that are wanted and the counting in force. An
//     election is one compare-and-set of (epoch e, counting revision r) to
//     epoch e+1 and a leader, so that an epoch has at most one leader.
//  2. One life. A process that led epoch e never leads e again: its Vow says
//     so on disk before it leads. After a restart it needs a new epoch. So an
//     epoch and a seq name one entry for ever, and two logs that hold entries
//     of the same epoch agree up to the end of the shorter run (Part).
//  3. Opening. A leader's first entry in its epoch is an opening entry of one
//     seq that changes nothing. Nothing is safe, acknowledged or shown as safe
//     at this epoch before the opening entry is.
//  4. Counting. A Counting{Replicas, Copies, Support} says that every
//     acknowledged write lies on the disks (or at the policy's point) of at
//     least Copies of Replicas, and that a live lease rests on at least
//     Support of them, the leader included where it is one of them. A write is
//     safe when the leader's own disk has it and every counting that may be in
//     force is satisfied.
//  5. Changing the counting (degrade, restore, replicas added or removed,
//     another policy) is always the same three steps: the leader begins to
//     obey the old and the new counting together; when all it ever
//     acknowledged satisfies the new one it asks the control plane to record
//     that (compare-and-set on epoch and revision); when the record shows it,
//     the old one is dropped. So at every moment what is recorded is obeyed,
//     and elections may rely on it. A removed replica keeps its files until
//     the record no longer counts it.
//  6. Vows. A follower raises its promised epoch on disk before it first
//     follows an epoch and before it answers an election, and refuses every
//     message of a lower epoch. It answers an election with its flushed
//     position, after flushing whatever it has received. A replica that has
//     lost its log, or is being copied, says that it is fresh: it is no
//     evidence of anything, until it has come as far as its leader's log was
//     when it began to follow. The vow outlives the log: it is kept when a
//     replica is copied anew or removed. Acknowledgements belong to a stream:
//     those of an earlier one are dropped.
//  7. Lease. A message asks its receiver for a lease of some length, and the
//     acknowledgement says what was granted. A leader may acknowledge, and read
//     linearizably, only while now < (send stamp of the message) + lease −
//     margin of the best grants of Support−1 followers. A follower's answer to
//     an election tells how much of what it has granted, each grant counted
//     from its receipt, is left. Leases are as short as the round trips allow:
//     an election has to wait them out. The lease of a replica that counts
//     alone, with Support 1, is always live.
//  8. Election. For epoch e+1 the supervisor collects promises of epoch e+1.
//     It needs len(Replicas)−min(Copies, Support)+1 of the counting's replicas,
//     waits out the longest lease among them, and takes the best position. Or
//     the leader of e answers itself (or releases): then that answer is enough
//     and there is no lease to wait for.
//  9. Loss. With fewer answers, but at least len(Replicas)−Support+1 and never
//     fewer than one, a database whose policy allows loss elects after a
//     grace, and the election is marked as lossy. Leases are respected even
//     then.
//
// # Why nothing acknowledged is lost
//
// Let w be a write acknowledged at epoch e. Its position, or that of the
// opening entry of e, whichever is later, is on Copies of the counting's
// replicas, so every set of len−Copies+1 promises has one replica that has w
// (rule 6: it flushed before it answered, and after its promise it takes
// nothing more from e, so w was not acknowledged later either). The best
// position P of the set is not less than that replica's. If P's epoch is e, its
// log holds w, as logs of one epoch are prefixes of each other (rule 2). If it
// is later, it was written by a leader of a later epoch, which held w by
// induction. An epoch of P that is less than e cannot be, by rule 3. When the
// leader of e answers itself: it flushed all that it acknowledged (rule 4),
// held all older writes by induction, and has stopped.
//
// # Why two leases are never live at once
//
// A live lease of e rests on Support replicas of the counting; len−Support+1
// promises hit one of them. It either is the leader, which stops with its
// promise, or a follower that tells how long its last receipt binds it. Its
// receipt is not before the leader's send stamp, so the leader's lease ends
// (by the margin, for clocks that run unevenly) before the follower's; and
// after the promise it acknowledges nothing of e. A restarted follower has
// forgotten its grants and assumes that it has just granted the longest lease.
//
// # What degrading means for elections
//
// A degraded leader acknowledges with fewer copies, so an election must know
// of it first: by rule 5 the smaller counting is recorded before it is used.
// It shrinks the set as well as the number: what is recorded is who holds
// everything. Any one of those may then lead; the others may not, however many
// answer. A leader that has gone on alone is therefore the only one who can be
// elected without loss, and as its lease rests on nobody, AllowLoss does not
// help either: that takes an operator's word (failover.Force).
//
// A transaction may ask for less than its database's policy. It then gets what
// it asks for: only writes that reached the policy's durability, or were
// acknowledged by a majority of an undegraded counting, are covered above. The
// point "received" counts memory: it survives everything but the crash of all
// replicas that count.
package leadership
