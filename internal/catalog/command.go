package catalog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"github.com/skeindb/skein/internal/base"
)

// CommandVersion is written into every command. A node that meets a higher one
// must be upgraded before it can follow.
const CommandVersion = 1

// MaxCommandBytes bounds an encoded command.
const MaxCommandBytes = 64 << 10

// ID names one command, whoever proposes it and however often. The zero ID is
// no id.
type ID [16]byte

// NewID draws an id from r, which must not fail.
func NewID(r io.Reader) (ID, error) {
	var id ID
	if _, err := io.ReadFull(r, id[:]); err != nil {
		return ID{}, fmt.Errorf("draw command id: %w", err)
	}
	return id, nil
}

// String returns the id as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes what String returns.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return fmt.Errorf("command id %.40q: want %d hexadecimal digits", b, 2*len(id))
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// Action is what a command does; the types that this package exports as
// actions are all there are.
type Action interface {
	// verb names the action in the encoding; it is never changed.
	verb() string
	// apply makes the change in d or says why not; then d is thrown away.
	apply(d *draft) *base.Error
}

// Command is an action with the id that makes repeating it harmless.
type Command struct {
	ID     ID
	Action Action
}

type commandJSON struct {
	Version int             `json:"v"`
	ID      ID              `json:"id"`
	Action  string          `json:"action"`
	Args    json.RawMessage `json:"args"`
}

// Encode returns the command's bytes.
func (c Command) Encode() ([]byte, error) {
	if c.Action == nil || c.ID == (ID{}) {
		return nil, base.Errorf(base.KindInvalid, "command without action or id")
	}
	args, err := json.Marshal(c.Action)
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.Action.verb(), err)
	}
	b, err := json.Marshal(commandJSON{CommandVersion, c.ID, c.Action.verb(), args})
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.Action.verb(), err)
	}
	if len(b) > MaxCommandBytes {
		return nil, base.Errorf(base.KindTooLarge, "command %s has %d bytes; the limit is %d", c.Action.verb(), len(b), MaxCommandBytes)
	}
	return b, nil
}

// DecodeCommand reads what Encode wrote. A version, action or field that this
// program does not know is KindUnsupported; other bytes are KindCorrupt.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) > MaxCommandBytes {
		return Command{}, base.Errorf(base.KindTooLarge, "command has %d bytes; the limit is %d", len(b), MaxCommandBytes)
	}
	var j commandJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return Command{}, base.Errorf(base.KindCorrupt, "decode command: %w", err)
	}
	if j.Version != CommandVersion {
		return Command{}, base.Errorf(base.KindUnsupported, "command version %d: this program knows version %d", j.Version, CommandVersion).
			WithHint("upgrade this node")
	}
	decode, ok := decoders[j.Action]
	if !ok {
		return Command{}, base.Errorf(base.KindUnsupported, "unknown command %.64q", j.Action).WithHint("upgrade this node")
	}
	if j.ID == (ID{}) {
		return Command{}, base.Errorf(base.KindCorrupt, "command %s has no id", j.Action)
	}
	action, err := decode(j.Args)
	if err != nil {
		return Command{}, base.Errorf(base.KindUnsupported, "decode command %s: %w", j.Action, err).WithHint("upgrade this node")
	}
	return Command{ID: j.ID, Action: action}, nil
}

func decodeAs[A Action](args json.RawMessage) (Action, error) {
	var a A
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields() // A field that is not understood must not be half obeyed.
	if err := d.Decode(&a); err != nil {
		return nil, err
	}
	return a, nil
}

// decoders is only looked up in, never ranged over.
var decoders = map[string]func(json.RawMessage) (Action, error){
	"bootstrap_cluster": decodeAs[BootstrapCluster],
	"add_node":          decodeAs[AddNode],
	"update_node":       decodeAs[UpdateNode],
	"node_active":       decodeAs[NodeActive],
	"mark_dead":         decodeAs[MarkDead],
	"remove_node":       decodeAs[RemoveNode],
	"set_voter":         decodeAs[SetVoter],
	"create_database":   decodeAs[CreateDatabase],
	"alter_database":    decodeAs[AlterDatabase],
	"drop_database":     decodeAs[DropDatabase],
	"set_replicas":      decodeAs[SetReplicas],
	"elect":             decodeAs[Elect],
	"set_counting":      decodeAs[SetCounting],
	"create_user":       decodeAs[CreateUser],
	"set_password":      decodeAs[SetPassword],
	"grant":             decodeAs[Grant],
	"revoke":            decodeAs[Revoke],
	"drop_user":         decodeAs[DropUser],
	"set_setting":       decodeAs[SetSetting],
	"add_webhook":       decodeAs[AddWebhook],
	"drop_webhook":      decodeAs[DropWebhook],
	"advance_webhook":   decodeAs[AdvanceWebhook],
	"announce_webhook":  decodeAs[AnnounceWebhook],
}

// Result is what a command came to. It is part of the state, so that a command
// that is proposed again gets the same one.
type Result struct {
	// Index of the log at which the command was first applied.
	Index uint64 `json:"index"`
	// Database is the new id after CreateDatabase.
	Database base.DatabaseID `json:"database,omitempty"`
	// Action, Kind, Message and Hint say why the command was refused; Kind is
	// empty when it was not.
	Action  string    `json:"action,omitempty"`
	Kind    base.Kind `json:"kind,omitempty"`
	Message string    `json:"message,omitempty"`
	Hint    string    `json:"hint,omitempty"`
}

// Err returns nil, or the refusal as a *base.Error with outcome NotDone.
func (r Result) Err() error {
	if r.Kind == "" {
		return nil
	}
	return &base.Error{Kind: r.Kind, Op: r.Action, Message: r.Message, Hint: r.Hint, Outcome: base.NotDone}
}

// Name returns the name of the command's action, for logs.
func (c Command) Name() string { return c.Action.verb() }
