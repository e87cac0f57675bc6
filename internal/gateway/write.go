package gateway

import (
	"context"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/replica"
	"github.com/skeindb/skein/internal/session"
)

// write runs an autocommit write at the leader.
func (s *clientSession) write(ctx context.Context, st statement) (session.Rows, error) {
	ctx, stop := s.cancelable(ctx, writeTimeout)
	defer stop()
	q := replica.WriteRequest{
		Statements: []replica.Statement{st.Statement}, Durability: s.settings.durability, Guard: st.guard,
		Operation: s.takeOperation(),
	}
	var res *replica.WriteResult
	var at base.DatabaseID
	err := s.gateway.atLeader(ctx, s.options.Database, func(ctx context.Context, db Database) (err error) {
		at, q.Past = db.ID, s.token.Past(db.ID)
		res, err = s.gateway.writeAt(ctx, db, q, s.token.Get(db.ID))
		return err
	})
	if err != nil {
		return nil, askable(err, q.Operation)
	}
	s.saw(at, res.Result)
	if len(st.description.Columns) > 0 && len(res.Columns) == 0 {
		return nil, base.Errorf(base.KindIndeterminate, "the write was kept, and its rows were lost with the leader that made them").
			WithOutcome(base.Done).WithHint("read them; do not write again")
	}
	res.Result.Tag = st.description.Tag
	return held(res), nil
}

func held(res *replica.WriteResult) session.Rows {
	return session.HeldRows(res.Columns, res.Rows, res.Result)
}
