package pgwire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"

	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/session"
)

const (
	mechanism = "SCRAM-SHA-256"
	// fakeIterations is for a gateway without any user to take them from.
	fakeIterations = 4096
)

// authenticator looks up SCRAM credentials. Unknown users get one that nobody
// can meet and that stays the same for a name, so that asking does not tell
// whether a user exists.
type authenticator struct {
	gateway session.Gateway
	secret  [32]byte
}

func newAuthenticator(e *env.Env, gw session.Gateway) *authenticator {
	a := &authenticator{gateway: gw}
	e.Rand.Read(a.secret[:])
	return a
}

func (a *authenticator) credential(user string) (scram.StoredCredentials, error) {
	stored, ok := a.gateway.Credential(user)
	if !ok {
		return a.fake(user), nil
	}
	return parseCredential(stored)
}

func (a *authenticator) fake(user string) scram.StoredCredentials {
	mac := func(what string) []byte {
		h := hmac.New(sha256.New, a.secret[:])
		h.Write([]byte(what + "\x00" + user))
		return h.Sum(nil)
	}
	factors := scram.KeyFactors{Salt: string(mac("salt")[:16]), Iters: fakeIterations}
	for _, known := range a.gateway.Users() {
		stored, _ := a.gateway.Credential(known)
		if c, err := parseCredential(stored); err == nil {
			factors.Iters = c.Iters
			factors.Salt = string(mac("salt")[:min(len(c.Salt), sha256.Size)])
			break
		}
	}
	return scram.StoredCredentials{KeyFactors: factors, StoredKey: mac("stored"), ServerKey: mac("server")}
}

// parseCredential reads "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey".
func parseCredential(s string) (scram.StoredCredentials, error) {
	var c scram.StoredCredentials
	bad := errors.New("stored credential is malformed")
	parts := strings.Split(s, "$")
	if len(parts) != 3 || parts[0] != mechanism {
		return c, bad
	}
	iterations, salt, ok1 := strings.Cut(parts[1], ":")
	stored, server, ok2 := strings.Cut(parts[2], ":")
	n, err := strconv.Atoi(iterations)
	if !ok1 || !ok2 || err != nil || n < 1 {
		return c, bad
	}
	saltBytes, err1 := base64.StdEncoding.DecodeString(salt)
	storedKey, err2 := base64.StdEncoding.DecodeString(stored)
	serverKey, err3 := base64.StdEncoding.DecodeString(server)
	if errors.Join(err1, err2, err3) != nil || len(storedKey) != sha256.Size || len(serverKey) != sha256.Size {
		return c, bad
	}
	c.KeyFactors = scram.KeyFactors{Salt: string(saltBytes), Iters: n}
	c.StoredKey, c.ServerKey = storedKey, serverKey
	return c, nil
}

// authenticate runs SCRAM-SHA-256 for the user of the startup message; the
// name inside the exchange does not count, as in PostgreSQL.
func (c *conn) authenticate(user string) error {
	credential, err := c.s.auth.credential(user)
	if err != nil {
		c.s.env.Log.Error("look up a credential", "user", user, "error", err)
		return pgError("28000", "the user's stored credential cannot be read")
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return credential, nil })
	if err != nil {
		return fmt.Errorf("start SCRAM: %w", err)
	}
	talk := server.NewConversation()
	c.out.send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{mechanism}})
	var first pgproto3.SASLInitialResponse
	if err := c.password(&first); err != nil {
		return err
	}
	if first.AuthMechanism != mechanism {
		return pgError("28000", "client selected an authentication mechanism that was not offered")
	}
	reply, err := talk.Step(string(first.Data))
	if err != nil {
		return c.refuse(user, err)
	}
	c.out.send(&pgproto3.AuthenticationSASLContinue{Data: []byte(reply)})
	var last pgproto3.SASLResponse
	if err := c.password(&last); err != nil {
		return err
	}
	reply, err = talk.Step(string(last.Data))
	if err != nil || !talk.Valid() {
		return c.refuse(user, err)
	}
	c.out.send(&pgproto3.AuthenticationSASLFinal{Data: []byte(reply)})
	return nil
}

// password reads the client's next message of an authentication.
func (c *conn) password(m pgproto3.FrontendMessage) error {
	c.out.due = true
	kind, body, err := c.in.message()
	if err != nil {
		return err
	}
	if kind != 'p' {
		return fmt.Errorf("%w: message %q where a password is due", errProtocol, kind)
	}
	if err := m.Decode(body); err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	return nil
}

// refuse says the same whatever was wrong.
func (c *conn) refuse(user string, err error) error {
	c.s.env.Log.Info("password authentication failed", "user", user, "remote", c.raw.RemoteAddr(), "error", err)
	return pgError("28P01", "password authentication failed for user %q", user)
}
