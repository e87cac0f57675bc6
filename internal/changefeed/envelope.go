package changefeed

import (
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
)

// Envelope is an Event as consumers get it: in Debezium's envelope, in JSON.
type Envelope struct {
	// ID is equal whenever the same change is delivered again.
	ID string `json:"id,omitempty"`
	// Offset is from where the stream goes on behind this event.
	Offset string `json:"offset"`
	// Op is c, u, d, r (a row of the initial snapshot), m (a message that a
	// trigger has sent), schema or heartbeat.
	Op          string       `json:"op"`
	Key         Row          `json:"key,omitempty"`
	Before      Row          `json:"before"`
	After       Row          `json:"after"`
	Source      Source       `json:"source"`
	TsMs        int64        `json:"ts_ms"` // when a node sent it
	Transaction *Transaction `json:"transaction,omitempty"`
	DDL         string       `json:"ddl,omitempty"`
	Message     string       `json:"message,omitempty"` // the operation of a message, in its sender's words
}

// Source says where an event comes from.
type Source struct {
	Connector string     `json:"connector"` // "skein"
	DB        string     `json:"db"`
	Table     string     `json:"table,omitempty"`
	TsMs      int64      `json:"ts_ms"` // the leader's clock at the commit; 0 in a snapshot
	Epoch     base.Epoch `json:"epoch"`
	Seq       base.Seq   `json:"seq"`
	LSN       string     `json:"lsn"`      // "epoch/seq"
	Node      string     `json:"node"`     // id of the node that sent it
	Snapshot  string     `json:"snapshot"` // "true", "last" or "false"
}

// Transaction says which transaction a change is part of, and where.
type Transaction struct {
	ID                  string `json:"id"`                    // "epoch/first seq"
	TotalOrder          int    `json:"total_order"`           // among all rows that it has changed, from 1
	DataCollectionOrder int    `json:"data_collection_order"` // among those of its table
}

// NewEnvelope puts an event into the envelope.
func NewEnvelope(e *Event, database, node string, now time.Time) Envelope {
	c := Envelope{
		Offset: e.Offset.String(), Op: string(e.Op), Key: e.Key, Before: e.Before, After: e.After,
		TsMs: now.UnixMilli(), DDL: e.SQL, Message: e.Message,
		Source: Source{
			Connector: "skein", DB: database, Table: e.Table, TsMs: time.Unix(0, e.Time).UnixMilli(), Epoch: e.Position.Epoch, Seq: e.Position.Seq,
			LSN: e.Position.String(), Node: node, Snapshot: "false",
		},
	}
	switch {
	case e.Op == Heartbeat:
		c.Source.TsMs = 0
		return c
	case e.Snapshot():
		c.Source.Snapshot = "true"
		if e.Last {
			c.Source.Snapshot = "last"
		}
		c.ID = fmt.Sprintf("%v/r%d", e.Position, e.Row)
		return c
	}
	c.ID = e.Position.String()
	c.Transaction = &Transaction{
		ID: base.Position{Epoch: e.Position.Epoch, Seq: e.First}.String(), TotalOrder: e.Order, DataCollectionOrder: e.TableOrder,
	}
	if e.Op == Schema {
		c.Transaction = nil
	}
	return c
}
