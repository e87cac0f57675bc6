package changefeed_test

import (
	"encoding/json"
	"testing"

	"github.com/skeindb/skein/internal/changefeed"
)

func TestRowsKeepTheirOrder(t *testing.T) {
	const text = `{"z":1,"a":{"blob":"AA=="},"m":null}`
	var r changefeed.Row
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if data, err := json.Marshal(r); err != nil || string(data) != text {
		t.Errorf("%s, %v", data, err)
	}
}
