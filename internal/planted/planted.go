// Package planted names bugs that can be planted on purpose, to see that the
// tests find them. A program built without the tag "planted" holds none: Is is
// false there, and the compiler drops what it guards.
//
// It imports nothing, so that cores may ask it; what packages say of their own
// imports leaves it out.
package planted

// Bug is one mistake that somebody might make.
type Bug string

// The bugs, by what they get wrong.
const (
	SkipLogSync       Bug = "skip-log-sync"       // the log says that it is on disk without a sync
	AckUnflushed      Bug = "ack-unflushed"       // a follower acknowledges as flushed what it has received
	AckBeforeQuorum   Bug = "ack-before-quorum"   // the leader's own disk is enough
	ServePastLease    Bug = "serve-past-lease"    // a leader that is cut off goes on
	ReadWithoutLease  Bug = "read-without-lease"  // leader reads do not ask for the lease
	ReadTooEarly      Bug = "read-too-early"      // a read shows what is not safe yet
	IgnoreToken       Bug = "ignore-token"        // a read does not wait for what its session has seen
	ForgetPast        Bug = "forget-past"         // a read does not wait for what its session has only heard of
	ForgetPromise     Bug = "forget-promise"      // a promise is given and not kept: older epochs are still followed
	ForgetVow         Bug = "forget-vow"          // promises are not written to disk
	LeadTwice         Bug = "lead-twice"          // an epoch that was led in an earlier life is led again
	ElectAnyone       Bug = "elect-anyone"        // the worst position wins an election
	ElectTooFew       Bug = "elect-too-few"       // one answer is enough for an election
	ImpatientElection Bug = "impatient-election"  // an election does not wait for the old lease's end
	KeepDivergentTail Bug = "keep-divergent-tail" // SQLite keeps what the log's cut has undone
	ApplyTwice        Bug = "apply-twice"         // a follower's tail is applied again after a restart
	SkipEntry         Bug = "skip-entry"          // a follower now and then leaves out an entry
	LoseTailOnLead    Bug = "lose-tail-on-lead"   // a new leader gives the numbers of what was not applied yet to other writes
	HandOverEarly     Bug = "hand-over-early"     // a switchover does not wait until the target has everything
	RepeatBlindly     Bug = "repeat-blindly"      // a write whose answer was lost is sent again without asking
	CallIndeterminate Bug = "call-undone"         // a write that is still on its way is reported as not done
	ControlUnsynced   Bug = "control-unsynced"    // the control plane's file is not synced
	DegradeByYourself Bug = "degrade-by-yourself" // a leader counts on fewer before that is agreed on
	SkipDelivery      Bug = "skip-delivery"       // a webhook goes on behind what its receiver has not answered yet
	SendUnannounced   Bug = "send-unannounced"    // what a failover may undo is delivered without a word to the next leader
)

// All are the bugs that the simulator must catch, in the order in which they
// are tried.
var All = []Bug{
	SkipLogSync, AckUnflushed, AckBeforeQuorum, ServePastLease, ReadWithoutLease, ReadTooEarly, IgnoreToken, ForgetPast, ForgetPromise, ForgetVow,
	LeadTwice, ElectAnyone, ElectTooFew, KeepDivergentTail, ApplyTwice, SkipEntry, LoseTailOnLead, HandOverEarly,
	RepeatBlindly, CallIndeterminate, ControlUnsynced, DegradeByYourself, SkipDelivery, SendUnannounced, ImpatientElection,
}

// patience is how many times the usual number of runs a bug is given. An
// election that does not wait for a lease shows only in what is left of it, and
// a write is repeated blindly only when its answer was lost and it was not.
var patience = map[Bug]int{ImpatientElection: 5, RepeatBlindly: 3}

// Runs is how many runs a bug is given where others are given some.
func Runs(b Bug, others int) int { return max(1, patience[b]) * others }

// scenarios of the simulator in which a bug is looked for. One that is not here
// is looked for in any run.
var scenarios = map[Bug]string{
	ServePastLease: "cutoff", ReadWithoutLease: "cutoff", ReadTooEarly: "cutoff", ElectTooFew: "cutoff", DegradeByYourself: "cutoff",
	KeepDivergentTail: "cutoff", RepeatBlindly: "cutoff", CallIndeterminate: "cutoff",
	ImpatientElection: "longlease",
	SkipLogSync:       "afterack", AckUnflushed: "afterack", AckBeforeQuorum: "afterack", LoseTailOnLead: "afterack", ElectAnyone: "afterack",
	ForgetVow: "relapse", LeadTwice: "relapse",
	HandOverEarly: "lagging", IgnoreToken: "lagging", SkipEntry: "lagging",
	ForgetPast:   "across",
	SkipDelivery: "deliver", SendUnannounced: "deliver",
}

// Scenario is where the simulator looks for a bug; "" is in any run.
func Scenario(b Bug) string { return scenarios[b] }
