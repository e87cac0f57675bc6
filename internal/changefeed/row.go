package changefeed

import (
	"bytes"
	"encoding/json"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/jsonvalue"
)

// Field is a column with its value.
type Field struct {
	Name  string
	Value base.Value
}

// Row is a row with its columns in the order of their declaration; nil is no
// row. In JSON it is an object that keeps the order, or null.
type Row []Field

// MarshalJSON writes an object.
func (r Row) MarshalJSON() ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	out := []byte{'{'}
	for i, f := range r {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		out = append(append(out, name...), ':')
		out = jsonvalue.Append(out, f.Value)
	}
	return append(out, '}'), nil
}

// UnmarshalJSON reads an object, keeping its order.
func (r *Row) UnmarshalJSON(data []byte) error {
	*r = nil
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return jsonvalue.Bad("a row must be an object")
	}
	*r = Row{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		var v jsonvalue.Value
		if err := dec.Decode(&v); err != nil {
			return err
		}
		*r = append(*r, Field{Name: name.(string), Value: base.Value(v)})
	}
	return nil
}
