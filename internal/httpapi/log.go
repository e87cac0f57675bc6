package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/changefeed"
	"github.com/skeindb/skein/internal/jsonvalue"
)

// LogQuery says which entries of a replica's log are shown.
type LogQuery struct {
	From, To base.Seq // 0: no bound
	Tables   []string
	Limit    int  // 0: all
	Mixed    bool // only entries whose statements travel as rows
}

// LogEntry is one entry of a replica's log.
type LogEntry struct {
	Position  string     `json:"position"` // "epoch/seq" of its end
	Epoch     base.Epoch `json:"epoch"`
	First     base.Seq   `json:"first"`
	Last      base.Seq   `json:"last"`
	Time      time.Time  `json:"time"` // the leader's clock at the commit
	Kind      string     `json:"kind"`
	Operation string     `json:"operation,omitempty"`
	Segment   uint64     `json:"segment"`
	Offset    int64      `json:"offset"` // of its frame, in the segment's file
	Bytes     int        `json:"bytes"`
	Safe      bool       `json:"safe"` // false: a failover may undo it
	// Statements are what an entry of kind statement executes.
	Statements []LogStatement `json:"statements,omitempty"`
	Reason     string         `json:"reason,omitempty"` // why statements travel as rows
	Note       string         `json:"note,omitempty"`
	Changes    []LogChange    `json:"changes"`
	Error      string         `json:"error,omitempty"` // why it could not be read
}

// LogStatement is a statement of an entry.
type LogStatement struct {
	SQL     string            `json:"sql"`
	Args    []jsonvalue.Value `json:"args,omitempty"`
	Outside string            `json:"outside,omitempty"` // what it took from outside: time, seed, ...
}

// LogChange is one change of an entry.
type LogChange struct {
	Seq   base.Seq       `json:"seq"`
	Op    string         `json:"op"` // insert, update, delete, move, schema, sequence, statistics
	Table string         `json:"table,omitempty"`
	Key   changefeed.Row `json:"key,omitempty"`
	Old   changefeed.Row `json:"old,omitempty"`
	New   changefeed.Row `json:"new,omitempty"`
	SQL   string         `json:"sql,omitempty"`
}

// LogReport is what reading a log has found.
type LogReport struct {
	Database string     `json:"database"`
	Node     string     `json:"node,omitempty"` // id of the node whose log it is
	Sound    bool       `json:"sound"`          // nothing is damaged in what was read
	Segments int        `json:"segments"`
	Bytes    int64      `json:"bytes"`
	Entries  int        `json:"entries"`
	First    base.Seq   `json:"first"`
	End      string     `json:"end"` // "epoch/seq" of the last entry that was read
	Faults   []LogFault `json:"faults"`
	Found    int        `json:"faults_found"` // how many there are; Faults lists the first thousand
	Torn     *LogFault  `json:"torn,omitempty"`
}

// LogFault is one place where stored bytes are not what was written.
type LogFault struct {
	Segment uint64 `json:"segment"`
	Offset  int64  `json:"offset"`
	After   string `json:"after"` // position of the last entry before it that could be read
	Reason  string `json:"reason"`
}

// LogEnd is the last line of a log that is shown: without it the answer broke
// off.
type LogEnd struct {
	End *LogReport `json:"end"`
}

const typeNDJSON = "application/x-ndjson"

// showLog answers with one entry a line, then a LogEnd.
func (a *API) showLog(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightRead); err != nil {
		return nil, err
	}
	q, err := logQuery(r)
	if err != nil {
		return nil, err
	}
	w.Header().Set("Content-Type", typeNDJSON)
	out := json.NewEncoder(&moving{api: a, control: http.NewResponseController(w), writer: w})
	report, err := a.options.Node.ShowLog(r.Context(), name, q, func(e LogEntry) error { return out.Encode(e) })
	if err != nil {
		return nil, err
	}
	return nil, out.Encode(LogEnd{End: report})
}

func logQuery(r *http.Request) (q LogQuery, err error) {
	values := r.URL.Query()
	q.Tables = values["table"]
	q.Mixed = values.Get("mixed") == "true"
	if q.From, err = ParseSeq(values.Get("from")); err == nil {
		q.To, err = ParseSeq(values.Get("to"))
	}
	if limit := values.Get("limit"); limit != "" && err == nil {
		q.Limit, err = strconv.Atoi(limit)
		if err != nil || q.Limit < 0 {
			err = base.Errorf(base.KindInvalid, "limit %q: want a number", limit)
		}
	}
	return q, err
}

// ParseSeq reads "seq" or "epoch/seq"; "" is 0. The epoch is not looked at: a
// seq has one meaning in one log.
func ParseSeq(text string) (base.Seq, error) {
	if text == "" {
		return 0, nil
	}
	number := text
	if epoch, seq, ok := strings.Cut(text, "/"); ok {
		if _, err := strconv.ParseUint(epoch, 10, 64); err != nil {
			return 0, base.Errorf(base.KindInvalid, "position %q: want a number, or epoch/number", text)
		}
		number = seq
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, base.Errorf(base.KindInvalid, "position %q: want a number, or epoch/number", text)
	}
	return base.Seq(n), nil
}

func (a *API) verifyLog(_ http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if err := a.need(r.Context(), name, RightRead); err != nil {
		return nil, err
	}
	return a.options.Node.VerifyLog(r.Context(), name)
}
