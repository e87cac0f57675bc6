package changefeed

import (
	"strings"

	"github.com/skeindb/skein/internal/base"
)

// Op is what an event tells of a row, in Debezium's letters.
type Op string

// The operations.
const (
	Create Op = "c"
	Update Op = "u"
	Delete Op = "d"
	Read   Op = "r" // a row that the initial snapshot found
	// Schema is a statement that has changed the schema.
	Schema Op = "schema"
	// Heartbeat tells only how far the stream has come.
	Heartbeat Op = "heartbeat"
	// Message is what a trigger has sent that is no row.
	Message Op = "m"
)

// Event is one change of a row, or one of the other operations.
type Event struct {
	Op    Op
	Table string
	// Key names the row: its primary key, or its rowid.
	Key Row
	// Before and After are whole rows, but for generated columns.
	Before, After Row
	SQL           string // of Schema
	// Message is the operation of a Message, in its sender's words; what it says
	// is in After.
	Message string

	// Position of the change; of a snapshot's rows and of a heartbeat, how far
	// the stream has come.
	Position base.Position
	Time     int64 // the leader's clock at the commit, Unix nanoseconds; 0: not known

	// First is the first seq of the transaction, Order the place of the change
	// among its rows and TableOrder among those of its table, from 1.
	First             base.Seq
	Order, TableOrder int

	// Row counts the rows of a snapshot, from 1; Last marks its last event.
	Row  int64
	Last bool

	// Offset is from where a stream goes on behind this event.
	Offset Offset
}

// Snapshot says that the event belongs to an initial snapshot.
func (e *Event) Snapshot() bool { return e.Op == Read }

// Request says what a stream is to hold.
type Request struct {
	// From is where it goes on. The zero Offset begins: with a snapshot of all
	// rows, or, with Now, with the first change from now on.
	From Offset
	Now  bool
	// Tables limits the stream to some; nil is all. Case does not matter.
	Tables []string
	// Chosen asks for what triggers have sent instead of all row changes: rows
	// have the columns that were chosen, and no Before. It is what a partial
	// replica is made from, and begins with a snapshot of what is chosen.
	Chosen bool
	// Name says who reads, in status and metrics.
	Name string
}

// Wants says whether a table is part of the stream.
func (r *Request) Wants(table string) bool {
	if len(r.Tables) == 0 {
		return true
	}
	for _, t := range r.Tables {
		if strings.EqualFold(t, table) {
			return true
		}
	}
	return false
}

// Sink takes the events of a stream. What it returns ends the stream. It may
// block for as long as its reader needs: nothing but the stream waits for it.
type Sink interface {
	// Send takes one event, whose rows stay valid.
	Send(e *Event) error
	// Flush is called when there is no further event just now.
	Flush() error
}
