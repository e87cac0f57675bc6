// Package scramsecret makes the stored form of a password: a SCRAM-SHA-256
// credential (RFC 5802, RFC 7677), from which nobody can log in. It is pure
// but for the randomness it is given.
package scramsecret

import (
	"encoding/base64"
	"fmt"
	"io"

	"github.com/xdg-go/scram"

	"github.com/skeindb/skein/internal/base"
)

const (
	iterations  = 4096
	saltBytes   = 16
	minPassword = 1
	maxPassword = 1024
)

// New returns "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey" for a
// password, with a salt drawn from random.
func New(random io.Reader, password string) (string, error) {
	if len(password) < minPassword || len(password) > maxPassword {
		return "", base.Errorf(base.KindInvalid, "a password has %d to %d bytes", minPassword, maxPassword)
	}
	client, err := scram.SHA256.NewClient("", password, "")
	if err != nil {
		return "", base.Errorf(base.KindInvalid, "the password can't be used: %w", err)
	}
	salt := make([]byte, saltBytes)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("draw salt: %w", err)
	}
	c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: iterations})
	if err != nil {
		return "", fmt.Errorf("derive keys: %w", err)
	}
	text := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, text(salt), text(c.StoredKey), text(c.ServerKey)), nil
}
