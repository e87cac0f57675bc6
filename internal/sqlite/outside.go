package sqlite

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/skeindb/skein/internal/base"
)

// Outside is what a statement takes from outside itself and the database: the
// clock, chance, and what earlier statements of its connection have left. On a
// connection with FixOutside its SQL functions answer by it, so that the same
// statement does the same elsewhere.
type Outside struct {
	Clock        int64 // milliseconds since 1970
	Seed         [16]byte
	LastRowID    int64
	Changes      int64
	TotalChanges int64

	// What the statement has asked for.
	UsedClock, UsedSeed, UsedLastRowID, UsedChanges, UsedTotalChanges bool
	// Local names what it has asked for that is of this machine alone.
	Local string
	// RefuseNow makes it an error to ask for the time, as the engine does while
	// it fills an index.
	RefuseNow bool

	random cipher.Stream
}

// draw fills b with random bytes: AES-128 in counter mode, from zero, under the
// seed as its key.
func (o *Outside) draw(b []byte) {
	o.UsedSeed = true
	if o.random == nil {
		block, err := aes.NewCipher(o.Seed[:])
		if err != nil {
			panic(err) // A key of 16 bytes is one.
		}
		o.random = cipher.NewCTR(block, make([]byte, aes.BlockSize))
	}
	o.random.XORKeyStream(b, b)
}

// clockFunctions are the engine's functions that may ask for the time, and how
// many arguments they are declared with.
var clockFunctions = map[string]int{
	"date": -1, "time": -1, "datetime": -1, "julianday": -1, "unixepoch": -1, "strftime": -1, "timediff": 2,
	"current_timestamp": 0, "current_date": 0, "current_time": 0,
}

// AsksClock says that a function, by its name in lower case, may ask for the time.
func AsksClock(name string) bool {
	_, ok := clockFunctions[name]
	return ok
}

// FixOutside replaces the functions that look outside by ones that answer from
// what SetOutside was given. Those of the clock are left alone when clock is
// false: the engine refuses the time in an index, a CHECK or a generated column,
// and the replaced functions can't tell.
func (c *Conn) FixOutside(clock bool) error {
	f := &fixed{conn: c}
	for _, fn := range []struct {
		name  string
		nargs int
		call  sqlite3.ScalarFunction
	}{
		{"random", 0, f.random}, {"randomblob", 1, f.randomblob},
		{"last_insert_rowid", 0, f.lastRowID}, {"changes", 0, f.changes}, {"total_changes", 0, f.totalChanges},
	} {
		if err := c.raw.CreateFunction(fn.name, fn.nargs, sqlite3.INNOCUOUS, fn.call); err != nil {
			return fmt.Errorf("replace function %s: %w", fn.name, mapError(err, nil))
		}
	}
	if !clock {
		return nil
	}
	for name, nargs := range clockFunctions {
		call := func(ctx sqlite3.Context, args ...sqlite3.Value) { f.clock(ctx, name, args) }
		if err := c.raw.CreateFunction(name, nargs, sqlite3.INNOCUOUS|sqlite3.DETERMINISTIC, call); err != nil {
			return fmt.Errorf("replace function %s: %w", name, mapError(err, nil))
		}
	}
	helper, err := OpenMemory(context.Background())
	if err != nil {
		return err
	}
	c.helper = helper
	return nil
}

// SetOutside sets what the statements that run next see of the outside; nil for
// those of our own, which do not look.
func (c *Conn) SetOutside(o *Outside) { c.outside = o }

// fixed are the functions that take the place of the engine's.
type fixed struct{ conn *Conn }

// outside is never nil: who is compiled, not run, may be asked for a constant.
func (f *fixed) outside() *Outside {
	if f.conn.outside == nil {
		return &Outside{}
	}
	return f.conn.outside
}

func (f *fixed) random(ctx sqlite3.Context, _ ...sqlite3.Value) {
	var number [8]byte
	f.outside().draw(number[:])
	ctx.ResultInt64(int64(binary.LittleEndian.Uint64(number[:])))
}

func (f *fixed) randomblob(ctx sqlite3.Context, args ...sqlite3.Value) {
	n := max(1, args[0].Int64())
	if n > int64(f.conn.limits.ValueBytes) {
		ctx.ResultError(sqlite3.TOOBIG)
		return
	}
	blob := make([]byte, n)
	f.outside().draw(blob)
	ctx.ResultBlob(blob)
}

func (f *fixed) lastRowID(ctx sqlite3.Context, _ ...sqlite3.Value) {
	f.outside().UsedLastRowID = true
	ctx.ResultInt64(f.conn.raw.LastInsertRowID())
}

func (f *fixed) changes(ctx sqlite3.Context, _ ...sqlite3.Value) {
	f.outside().UsedChanges = true
	ctx.ResultInt64(f.conn.raw.Changes())
}

// totalChanges counts on from what the statement was told.
func (f *fixed) totalChanges(ctx sqlite3.Context, _ ...sqlite3.Value) {
	o := f.outside()
	o.UsedTotalChanges = true
	ctx.ResultInt64(o.TotalChanges + f.conn.raw.TotalChanges() - f.conn.totalBefore)
}

// clock calls the engine's own function, on another connection, with the fixed
// time in the place of now.
func (f *fixed) clock(ctx sqlite3.Context, name string, args []sqlite3.Value) {
	values := make([]base.Value, 0, len(args)+1)
	for _, v := range args {
		values = append(values, valueOf(v).Clone())
	}
	o := f.outside()
	var now bool
	if values, now = withTime(name, values, o.Clock); now {
		o.UsedClock = true
		if o.RefuseNow {
			ctx.ResultError(fmt.Errorf("non-deterministic use of %s() in an index", name))
			return
		}
	}
	if zone := zoneOf(values); zone != "" {
		o.Local = "the time zone of the machine (" + zone + ")"
	}
	v, err := f.conn.helper.call(strings.TrimPrefix(name, "current_"), values)
	if err != nil {
		ctx.ResultError(err)
		return
	}
	resultOf(ctx, v)
}

func zoneOf(values []base.Value) string {
	for _, v := range values {
		if v.Kind == base.Text {
			if word := strings.ToLower(string(v.Bytes)); word == "localtime" || word == "utc" {
				return word
			}
		}
	}
	return ""
}

// withTime puts a time in the place of now, and where it is left out.
func withTime(name string, args []base.Value, clock int64) (_ []base.Value, now bool) {
	at := base.TextValue(time.UnixMilli(clock).UTC().Format("2006-01-02 15:04:05.000"))
	first := 0
	if name == "strftime" {
		first = 1
	}
	if len(args) == first {
		return append(args, at), true
	}
	for i := first; i < len(args); i++ {
		if i > first && name != "timediff" {
			break
		}
		switch word := strings.ToLower(string(args[i].Bytes)); {
		case args[i].Kind != base.Text:
		case word == "now":
			args[i], now = at, true
		case word == "subsec" || word == "subsecond":
			return append(args[:i:i], append([]base.Value{at}, args[i:]...)...), true
		}
	}
	return args, now
}

// call calls a function of the engine.
func (c *Conn) call(name string, args []base.Value) (base.Value, error) {
	if name == "timestamp" {
		name = "datetime"
	}
	marks := strings.TrimSuffix(strings.Repeat("?,", len(args)), ",")
	st, err := c.PrepareOwn("SELECT " + name + "(" + marks + ")")
	if err != nil {
		return base.Value{}, err
	}
	defer st.Close()
	if err := st.BindAll(args); err != nil {
		return base.Value{}, err
	}
	if _, err := st.Step(); err != nil {
		return base.Value{}, err
	}
	return st.Column(0).Clone(), nil
}

func resultOf(ctx sqlite3.Context, v base.Value) {
	switch v.Kind {
	case base.Integer:
		ctx.ResultInt64(v.Int)
	case base.Real:
		ctx.ResultFloat(v.Float)
	case base.Text:
		ctx.ResultRawText(v.Bytes)
	case base.Blob:
		ctx.ResultBlob(v.Bytes)
	default:
		ctx.ResultNull()
	}
}

// Left fills in what earlier statements have left on the connection, and counts
// total_changes() from here.
func (c *Conn) Left(o *Outside) {
	o.LastRowID, o.Changes, o.TotalChanges = c.raw.LastInsertRowID(), c.raw.Changes(), c.raw.TotalChanges()
	c.totalBefore = o.TotalChanges
}

// MaxChanges is how large a changes() Leave can bring about.
const MaxChanges = 1000

// PrepareLeave makes what Leave needs, outside of a transaction.
func (c *Conn) PrepareLeave() error {
	return c.Exec(fmt.Sprintf("CREATE TEMP TABLE _skein_counter AS "+
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT i FROM n", MaxChanges))
}

// Leave leaves what earlier statements of another connection have left: the
// opposite of Left. Changes may be up to MaxChanges.
func (c *Conn) Leave(o *Outside) error {
	if o.UsedChanges {
		if err := c.leaveChanges(o.Changes); err != nil {
			return fmt.Errorf("bring about changes() of %d: %w", o.Changes, err)
		}
	}
	if o.UsedLastRowID {
		c.raw.SetLastInsertRowID(o.LastRowID)
	}
	c.totalBefore = c.raw.TotalChanges()
	return nil
}

// leaveChanges changes as many rows of a temporary table: the engine has no other
// way to set the counter.
func (c *Conn) leaveChanges(n int64) error {
	if n < 0 || n > MaxChanges {
		return base.Errorf(base.KindInternal, "%d is out of range", n)
	}
	st, err := c.PrepareOwn("UPDATE temp._skein_counter SET i = i WHERE rowid <= ?1")
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.Bind(1, base.IntValue(n)); err != nil {
		return err
	}
	return st.Run()
}
