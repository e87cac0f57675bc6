package httpapi_test

import (
	"encoding/json"
	"testing"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/httpapi"
)

func TestPolicySurvivesJSON(t *testing.T) {
	p := base.DefaultPolicy()
	p.Replicas, p.Durability, p.AllowLoss = 5, base.Durability{Level: base.One, When: base.Received}, true
	data, err := json.Marshal(httpapi.Policy(p))
	if err != nil {
		t.Fatal(err)
	}
	var back httpapi.Policy
	if err := json.Unmarshal(data, &back); err != nil || base.Policy(back) != p {
		t.Errorf("%s: %+v, %v", data, back, err)
	}
}
