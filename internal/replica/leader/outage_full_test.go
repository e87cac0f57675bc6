package leader_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// A leader whose disk is full refuses writes and says why, whatever call it is
// that finds no room; what was acknowledged stays, and it goes on with the room.
func TestAFullDiskIsToldAndHeals(t *testing.T) {
	p := &plant{t: t}
	vfs := p.register("full")
	for left := int64(0); left < 200<<10; left += 9 << 10 {
		synctest.Test(t, func(t *testing.T) {
			c := pair(t, vfs)
			defer c.close()
			c.appoint(1)
			c.write("CREATE TABLE item(id INTEGER PRIMARY KEY, data)")
			c.level()
			c.disks[1].SetCapacity(c.disks[1].Used() + left)
			kept, refused := 0, 0
			for range 60 {
				_, err := c.try(1, request("INSERT INTO item(data) VALUES (randomblob(7000))"))
				switch e := base.AsError(cmpErr(err)); {
				case err == nil:
					kept++
				case e.Kind == base.KindDiskFull && e.State() == "53100" && (e.Outcome == "" || e.Outcome == base.NotDone):
					refused++
				default:
					t.Fatalf("with room for %d bytes, after %d writes: %v (%s, %s)", left, kept, err, e.Kind, e.Outcome)
				}
				time.Sleep(100 * time.Millisecond)
			}
			if refused == 0 {
				t.Errorf("60 writes found room in %d bytes", left)
			}
			if refused > 20 && (c.mu.noRoom == 0 || c.mu.noRoom > refused/10) {
				t.Errorf("%d writes were refused in a few seconds, and that was said %d times", refused, c.mu.noRoom)
			}
			c.disks[1].SetCapacity(0)
			time.Sleep(time.Second)
			c.write("INSERT INTO item(data) VALUES (NULL)")
			c.same()
			if got := c.read(2, "SELECT count(*) FROM item"); got != fmt.Sprint(kept+1) {
				t.Errorf("%s rows, want %d", got, kept+1)
			}
			if epoch, _ := c.replica(1).Leading(); epoch != 1 {
				t.Errorf("epoch %d", epoch)
			}
		})
	}
}
