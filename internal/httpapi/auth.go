package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/xdg-go/scram"

	"github.com/skeindb/skein/internal/base"
)

// identity is who makes a request.
type identity struct {
	user    string
	trusted bool // no password was needed: all rights
}

type identityKey struct{}

func identityOf(ctx context.Context) identity {
	id, _ := ctx.Value(identityKey{}).(identity)
	return id
}

// CheckPassword says whether password belongs to a stored credential of the
// form "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey". It costs as much
// as the iterations say, milliseconds as a rule.
func CheckPassword(credential, password string) bool {
	iterations, salt, stored, ok := parseCredential(credential)
	if !ok {
		return false
	}
	client, err := scram.SHA256.NewClient("", password, "")
	if err != nil {
		return false // The password is no valid SASLprep string, so it cannot have been set.
	}
	derived, err := client.WithMinIterations(1).GetStoredCredentialsWithError(
		scram.KeyFactors{Salt: string(salt), Iters: iterations})
	return err == nil && subtle.ConstantTimeCompare(derived.StoredKey, stored) == 1
}

func parseCredential(credential string) (iterations int, salt, stored []byte, ok bool) {
	parts := strings.Split(credential, "$")
	if len(parts) != 3 || parts[0] != "SCRAM-SHA-256" {
		return 0, nil, nil, false
	}
	count, salt64, ok1 := strings.Cut(parts[1], ":")
	stored64, _, ok2 := strings.Cut(parts[2], ":")
	iterations, err := strconv.Atoi(count)
	if !ok1 || !ok2 || err != nil || iterations < 1 || iterations > 1_000_000 {
		return 0, nil, nil, false
	}
	salt, err1 := base64.StdEncoding.DecodeString(salt64)
	stored, err2 := base64.StdEncoding.DecodeString(stored64)
	return iterations, salt, stored, err1 == nil && err2 == nil && len(stored) == sha256.Size
}

// passwords checks passwords and remembers a bounded number of good ones, by a
// hash that includes the credential: a changed password is a different entry.
type passwords struct {
	credential func(user string) (string, bool)
	// turns bounds how many derivations run at once, so that guessing cannot
	// take the whole machine.
	turns chan struct{}

	mu   sync.Mutex // guards good
	good map[[sha256.Size]byte]bool
}

const (
	maxRememberedPasswords = 256
	maxDerivations         = 2
)

// decoy is checked for users that do not exist, so that they cost the same.
const decoy = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$" +
	"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

func newPasswords(credential func(string) (string, bool)) *passwords {
	return &passwords{credential: credential, turns: make(chan struct{}, maxDerivations), good: map[[sha256.Size]byte]bool{}}
}

func (p *passwords) check(ctx context.Context, user, password string) (bool, error) {
	credential, known := p.credential(user)
	if !known {
		credential = decoy
	}
	key := sha256.Sum256([]byte(strconv.Quote(user) + strconv.Quote(password) + credential))
	if known && p.remembered(key) {
		return true, nil
	}
	select {
	case p.turns <- struct{}{}:
		defer func() { <-p.turns }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	if !CheckPassword(credential, password) || !known {
		return false, nil
	}
	p.remember(key)
	return true, nil
}

func (p *passwords) remembered(key [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.good[key]
}

func (p *passwords) remember(key [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.good) >= maxRememberedPasswords {
		clear(p.good)
	}
	p.good[key] = true
}

// identify finds out who makes a request. A request without a password is
// trusted only where that is configured, from a loopback address, and when
// nothing suggests that someone else is behind it.
func (a *API) identify(r *http.Request) (identity, error) {
	user, password, given := r.BasicAuth()
	if !given {
		if a.options.TrustLoopback && isLoopback(r.RemoteAddr) && !forwarded(r.Header) {
			return identity{trusted: true}, nil
		}
		return identity{}, unauthorized("this request needs a user and a password")
	}
	ok, err := a.passwords.check(r.Context(), user, password)
	if err != nil {
		return identity{}, base.Errorf(base.KindCanceled, "check password: %w", err)
	}
	if !ok {
		return identity{}, unauthorized("unknown user or wrong password")
	}
	return identity{user: user}, nil
}

func unauthorized(message string) error {
	return base.Errorf(base.KindUnauthorized, "%s", message).
		WithHint("Send HTTP Basic credentials of a database user; `skein user add NAME` makes one.")
}

// forwarded says that a proxy passed the request on: the peer's address then
// says nothing about who asks.
func forwarded(h http.Header) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if h.Get(name) != "" {
			return true
		}
	}
	return false
}

func isLoopback(address string) bool {
	ap, err := netip.ParseAddrPort(address)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// loopbackHost says whether a Host header names this machine by a loopback
// name or address. A name that someone else's DNS could point here does not.
func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// checkSite refuses requests that another site's page makes a browser send.
// Where loopback is trusted the Host must also be a loopback name, or a page
// could reach the node under its own name (DNS rebinding).
func (a *API) checkSite(r *http.Request) error {
	if a.options.TrustLoopback && isLoopback(r.RemoteAddr) && !loopbackHost(r.Host) {
		return base.Errorf(base.KindForbidden, "host %q is not a loopback name", r.Host).
			WithHint("This node trusts programs on its own machine; address it as 127.0.0.1 or localhost.")
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameOrigin(origin, r.Host) {
		return base.Errorf(base.KindForbidden, "requests from web pages of %s are refused", origin)
	}
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" && !plainVisit(r) {
		return base.Errorf(base.KindForbidden, "requests from other web sites' pages are refused")
	}
	return nil
}

// sameOrigin compares hosts and ports. The scheme is not compared: behind a
// proxy that ends TLS the page is https and this request is http.
func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// plainVisit is a person following a link to a page here: the other site does
// not get to see the answer.
func plainVisit(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate"
}

// need checks a right on a database ("*" is the cluster).
func (a *API) need(ctx context.Context, database string, right Right) error {
	id := identityOf(ctx)
	if id.trusted || a.options.Node.Right(id.user, database).Includes(right) {
		return nil
	}
	on := "database " + database
	if database == "*" {
		on = "all databases (*)"
	}
	return base.Errorf(base.KindForbidden, "user %s lacks the right %s on %s", id.user, right, on)
}
