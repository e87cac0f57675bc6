package gateway

import (
	"context"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
)

// The answers to SHOW skein.outcome.
const (
	outcomeApplied    = "applied"
	outcomeNotApplied = "not applied"
	outcomeUnknown    = "unknown"
)

// takeOperation is the client's name for the write that is about to be sent,
// which is used up by that, or one of the gateway's own.
func (s *clientSession) takeOperation() replica.OperationID {
	op := s.gateway.newOperation()
	if name := s.settings.operation; name != "" {
		op, s.settings.operation = replica.NameOperation(name), ""
	}
	s.named = op
	return op
}

// outcome says what has become of the write that skein.operation names, or else
// of the session's last one.
func (s *clientSession) outcome(ctx context.Context) (string, error) {
	op := s.named
	if name := s.settings.operation; name != "" {
		op = replica.NameOperation(name)
	}
	if op == (replica.OperationID{}) {
		return "", base.Errorf(base.KindInvalid, "no write was named").WithHint("SET skein.operation = 'NAME' names the next write, or the one to ask for")
	}
	ctx, stop := s.cancelable(ctx, leaderWait)
	defer stop()
	var fate replica.Fate
	err := s.gateway.atLeader(ctx, s.options.Database, func(ctx context.Context, db Database) (err error) {
		fate, err = s.gateway.askFate(ctx, db, op, 0)
		return harmless(err)
	})
	switch {
	case err != nil:
		return "", err
	case fate.Found:
		return outcomeApplied, nil
	case fate.Known:
		return outcomeNotApplied, nil
	}
	return outcomeUnknown, nil
}

// askable puts the name of a write into an error that leaves its outcome open.
func askable(err error, op replica.OperationID) error {
	if err == nil {
		return nil
	}
	e := base.AsError(err)
	if e.Outcome != base.Indeterminate {
		return err
	}
	named := *e
	named.Operation = op.String()
	hint := "SET skein.operation = '" + named.Operation + "' and SHOW skein.outcome tell what has become of it"
	if named.Hint != "" {
		hint = named.Hint + "; " + hint
	}
	named.Hint = hint
	return &named
}

// appliedAlready refuses a transaction that a client runs again under a name
// that is taken: what it would do was done.
func appliedAlready(r replica.Fate) error {
	e := base.Errorf(base.KindExists, "the transaction was applied already, at position %v", r.Result.Position).
		WithOutcome(base.Done).WithHint("go on as after its COMMIT")
	e.SQLState = "25S01"
	return e
}

// harmlessUnlessDone is harmless, but for an error that says that it was done.
func harmlessUnlessDone(err error) error {
	if err != nil && base.AsError(err).Outcome == base.Done {
		return err
	}
	return harmless(err)
}
