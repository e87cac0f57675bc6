package jsonvalue_test

import (
	"encoding/json"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/jsonvalue"
)

func anyValue() *rapid.Generator[base.Value] {
	return rapid.OneOf(
		rapid.Just(base.Value{}),
		rapid.Map(rapid.Int64(), base.IntValue),
		rapid.Map(rapid.Float64().Filter(func(f float64) bool { return !math.IsNaN(f) }), base.RealValue),
		rapid.Map(rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1, 1e300, math.Inf(1), math.Inf(-1)}), base.RealValue),
		rapid.Map(rapid.String(), base.TextValue),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) base.Value { return base.Value{Kind: base.Text, Bytes: b} }),
		rapid.Map(rapid.SliceOf(rapid.Byte()), base.BlobValue),
	)
}

// A value that goes out and comes back is the same bit for bit, and every
// integer that is a JSON number is exact as a double.
func TestValuesSurviveJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := anyValue().Draw(t, "value")
		data, err := json.Marshal(jsonvalue.Value(v))
		if err != nil {
			t.Fatal(err)
		}
		var back jsonvalue.Value
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if !base.Value(back).Equal(v) {
			t.Fatalf("%s: got %+v, want %+v", data, back, v)
		}
		if v.Kind == base.Integer && data[0] != '{' {
			var f float64
			if json.Unmarshal(data, &f); int64(f) != v.Int {
				t.Fatalf("%s is not exact as a double", data)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`null`, `1`, `1.5`, `-0`, `"x"`, `{"int":"9223372036854775807"}`, `{"blob":"AA=="}`, `{}`, `[`, `{"real":"NaN"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := jsonvalue.Parse(data)
		if err != nil {
			return
		}
		again, err := jsonvalue.Parse(jsonvalue.Append(nil, v))
		if err != nil || !again.Equal(v) {
			t.Fatalf("%q: %+v came back as %+v, %v", data, v, again, err)
		}
	})
}
