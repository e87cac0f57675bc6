package node_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/skeindb/skein/internal/leadership"
)

// A replica whose folder was taken away, or whose replica.json is damaged, while
// its node was down, is copied, whether it led or followed; nothing is lost and
// nobody needs to help. So it is where the list of replicas is damaged, too.
func TestLostReplicasComeBack(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, 3, func(t *testing.T, b *bubble) {
		b.create(1, "shop", nil)
		b.sql(1, "shop", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		want, err := os.ReadFile(wd + "/testdata/replicas.json")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(b.dir(1) + "/replicas.json"); err != nil || string(got) != string(want) {
			t.Errorf("the list is %s (%v), want %s", got, err, want)
		}
		rows := 0
		for i, lose := range []func(folder, node string) error{
			func(folder, _ string) error { return os.RemoveAll(folder) },
			func(folder, _ string) error { return os.WriteFile(folder+"/replica.json", []byte("{}"), 0o600) },
			func(folder, node string) error {
				if err := os.WriteFile(node+"/replicas.json", []byte("{"), 0o600); err != nil {
					return err
				}
				return os.RemoveAll(folder)
			},
		} {
			for _, leads := range []bool{false, true} {
				rows++
				b.sql(1, "shop", fmt.Sprintf("INSERT INTO item VALUES (%d)", rows))
				b.level("shop")
				victim := b.leader("shop")
				if !leads {
					victim = b.others(victim)[0]
				}
				b.kill(victim)
				if err := lose(b.dir(victim)+"/db/shop.1", b.dir(victim)); err != nil {
					t.Fatal(err)
				}
				b.open(victim)
				b.eventually(fmt.Sprintf("loss %d of a leader (%v) is healed", i, leads), func() bool {
					r, err := b.nodes[victim].Replica("shop")
					if err != nil || r.Status().Copied == 0 {
						return false
					}
					// Before it is known to have all, another loss would be one too many.
					probe := leadership.PromiseRequest{Database: 1, Epoch: b.record(victim, "shop").Epoch + 1, Probe: true}
					reply, err := r.Promise(t.Context(), probe)
					return err == nil && !reply.Fresh
				})
				rows++
				b.sql(victim, "shop", fmt.Sprintf("INSERT INTO item VALUES (%d)", rows))
				b.level("shop")
				if got := b.strong(victim, "shop", "SELECT count(*) FROM item"); got != fmt.Sprint(rows) {
					t.Fatalf("loss %d of a leader (%v): %s rows of %d", i, leads, got, rows)
				}
			}
		}
		// A new database is no lost one, although the list says that all may be.
		b.create(1, "later", nil)
		b.sql(1, "later", "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		b.level("later")
	})
}
