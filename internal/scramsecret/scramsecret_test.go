package scramsecret_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"github.com/skeindb/skein/internal/scramsecret"
)

// A client that knows the password gets in by the stored form, and no other.
func TestStoredFormLetsItsPasswordIn(t *testing.T) {
	stored, err := scramsecret.New(bytes.NewReader(make([]byte, 16)), "sesame ünlocks")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(stored, "sesame") {
		t.Errorf("the password is readable in %s", stored)
	}
	parts := strings.FieldsFunc(stored, func(r rune) bool { return r == '$' || r == ':' })
	if len(parts) != 5 || parts[0] != "SCRAM-SHA-256" || parts[1] != "4096" {
		t.Fatalf("stored form %q", stored)
	}
	decode := func(s string) []byte {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) {
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(decode(parts[2])), Iters: 4096}, StoredKey: decode(parts[3]), ServerKey: decode(parts[4]),
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"sesame ünlocks": true, "sesame": false} {
		client, err := scram.SHA256.NewClient("ada", password, "")
		if err != nil {
			t.Fatal(err)
		}
		c, s := client.NewConversation(), server.NewConversation()
		said := ""
		for !c.Done() && !s.Done() {
			if said, err = c.Step(said); err == nil {
				said, err = s.Step(said)
			}
			if err != nil {
				break
			}
		}
		if s.Valid() != want {
			t.Errorf("%q is let in: %v", password, s.Valid())
		}
	}
}

func TestPasswordsThatCannotBe(t *testing.T) {
	for _, password := range []string{"", strings.Repeat("x", 1025), "bell\a"} {
		if stored, err := scramsecret.New(bytes.NewReader(make([]byte, 16)), password); err == nil {
			t.Errorf("%.20q became %s", password, stored)
		}
	}
	if _, err := scramsecret.New(bytes.NewReader(nil), "x"); err == nil {
		t.Error("a salt out of nothing")
	}
}
