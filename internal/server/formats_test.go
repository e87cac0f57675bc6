package server_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
	"github.com/skeindb/skein/internal/server"
	"github.com/skeindb/skein/internal/session"
)

func execute(t *testing.T, s *server.Server, database, sql string) {
	t.Helper()
	conn, err := s.Node().Gateway().Open(t.Context(), session.Options{Trusted: true, Database: database, FrontEnd: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rows, err := conn.Query(t.Context(), sql, nil)
	if err != nil {
		t.Fatal(sql, err)
	}
	for rows.Next() {
	}
	if err := rows.Close(); err != nil {
		t.Fatal(sql, err)
	}
}

// TestDifferenceIsAnAlert: a statement that does something else on a follower is
// healed between the nodes, and told with the rows of both.
func TestDifferenceIsAnAlert(t *testing.T) {
	ctx := context.Background()
	a := open(t, t.TempDir(), "a")
	eventually(t, "a founded a cluster", func() bool { return a.Ready(ctx).Ready })
	b := open(t, t.TempDir(), "b", a.Node().PeerAddress())
	eventually(t, "both vote", func() bool { return len(b.Node().Control().State().Voters()) == 2 })
	policy := base.DefaultPolicy()
	policy.LogFormat = base.FormatStatement
	if err := a.CreateDatabase(ctx, "shop", policy); err != nil {
		t.Fatal(err)
	}
	execute(t, a, "shop", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
	execute(t, a, "shop", "INSERT INTO t VALUES (9223372036854775807, 'last')")
	execute(t, a, "shop", "INSERT INTO t(v) VALUES ('drawn')") // Its id is drawn at random.
	eventually(t, "the difference is told", func() bool { return slices.Contains(kinds(status(t, a)), httpapi.AlertDifference) })
	for _, alert := range status(t, a).Alerts {
		if alert.Kind == httpapi.AlertDifference && strings.Count(alert.Message, "insert t (") != 2 {
			t.Errorf("told: %s", alert.Message)
		}
	}
	eventually(t, "the replicas are equal", func() bool {
		list, err := a.ContentHash(ctx, "shop")
		return err == nil && len(list) == 2 && list[0].Hash != "" && list[0].Hash == list[1].Hash
	})
}
