package pki_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/pki"
)

const (
	cluster = 0xabcdef0123456789
	alice   = base.NodeID(0xa11ce)
	bob     = base.NodeID(0xb0b)
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func disk() env.FS { return env.Real(slog.New(slog.NewTextHandler(io.Discard, nil))).FS }

var authority = sync.OnceValue(func() *pki.CA { return newAuthority(cluster) })

func newAuthority(id uint64) *pki.CA {
	ca, err := pki.NewCA(rand.Reader, start, id)
	if err != nil {
		panic(err)
	}
	return ca
}

func issue(t *testing.T, ca *pki.CA, node base.NodeID, now time.Time) *pki.Identity {
	t.Helper()
	id, err := ca.IssueNode(rand.Reader, now, pki.NodeOptions{Node: node, Names: []string{"db.example", "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// handshake runs TLS between two configurations and returns both results.
func handshake(t *testing.T, client, server *tls.Config) (seen tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	a, b := connected(t)
	done := make(chan error, 1)
	s := tls.Server(b, server)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		} else {
			b.Close()
		}
		done <- err
	}()
	c := tls.Client(a, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1)) // The server's verdict comes only now.
	}
	a.Close()
	serverErr = <-done
	return s.ConnectionState(), clientErr, serverErr
}

// connected returns both ends of a connection that buffers, so that two sides
// may write at once.
func connected(t *testing.T) (net.Conn, net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestNodesOfOneClusterKnowEachOther(t *testing.T) {
	a, b := issue(t, authority(), alice, start), issue(t, authority(), bob, start)
	for _, want := range []base.NodeID{bob, 0} {
		seen, clientErr, serverErr := handshake(t, a.TLSConfig(at(start), want, "h2"), b.ServerTLSConfig(at(start), "h2"))
		if clientErr != nil || serverErr != nil {
			t.Fatalf("handshake: %v, %v", clientErr, serverErr)
		}
		if node, err := pki.PeerOf(seen); node != alice || err != nil {
			t.Errorf("the server saw node %s, %v", node, err)
		}
		if seen.Version != tls.VersionTLS13 || seen.NegotiatedProtocol != "h2" {
			t.Errorf("negotiated version %x, protocol %q", seen.Version, seen.NegotiatedProtocol)
		}
	}
}

// TestImpostorsAreRefused has one case for each thing a certificate can be
// wrong in; the honest side must say what it is.
func TestImpostorsAreRefused(t *testing.T) {
	a, b := issue(t, authority(), alice, start), issue(t, authority(), bob, start)
	foreign, sameID := newAuthority(77), newAuthority(cluster)
	late := start.Add(pki.DefaultValid + time.Minute)
	server, err := authority().IssueServer(rand.Reader, start, pki.ServerOptions{Names: []string{"db.example"}})
	if err != nil {
		t.Fatal(err)
	}
	noCertificate := a.TLSConfig(at(start), bob)
	noCertificate.Certificates = nil
	old := a.TLSConfig(at(start), bob)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	fresh := issue(t, authority(), alice, late)
	cases := []struct {
		name           string
		client, server *tls.Config
		byClient       bool // who refuses
		want           string
	}{
		{"another node answers", a.TLSConfig(at(start), 0xcc), b.ServerTLSConfig(at(start)), true, "want node"},
		{"server of another cluster", a.TLSConfig(at(start), bob), issue(t, foreign, bob, start).ServerTLSConfig(at(start)), true, "not of this cluster"},
		{"client of another cluster", issue(t, foreign, alice, start).TLSConfig(at(start), 0), b.ServerTLSConfig(at(start)), true, "not of this cluster"},
		{"forged authority with our id", a.TLSConfig(at(start), bob), issue(t, sameID, bob, start).ServerTLSConfig(at(start)), true, "not of this cluster"},
		{"expired server", fresh.TLSConfig(at(late), bob), b.ServerTLSConfig(at(start)), true, "expired on 2031-01-01"},
		{"expired client", a.TLSConfig(at(start), bob), b.ServerTLSConfig(at(late)), false, "expired on 2031-01-01"},
		{"not yet valid", a.TLSConfig(at(start.Add(-2*time.Hour)), bob), b.ServerTLSConfig(at(start)), true, "valid only from"},
		{"server certificate as a node's", a.TLSConfig(at(start), 0), server.TLSConfig(at(start)), true, "names no node"},
		{"no certificate", noCertificate, b.ServerTLSConfig(at(start)), false, "certificate"},
		{"TLS 1.2", old, b.ServerTLSConfig(at(start)), false, "version"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, clientErr, serverErr := handshake(t, c.client, c.server)
			if clientErr == nil {
				t.Fatal("the client was served")
			}
			err := serverErr
			if c.byClient {
				err = clientErr
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("refused with %v, want something with %q", err, c.want)
			}
		})
	}
}

func TestServerRefusesClientOfAnotherCluster(t *testing.T) {
	b := issue(t, authority(), bob, start)
	// The client would take any server: only the server can refuse.
	careless := issue(t, newAuthority(77), alice, start).TLSConfig(at(start), 0)
	careless.VerifyConnection = nil
	_, clientErr, serverErr := handshake(t, careless, b.ServerTLSConfig(at(start)))
	if clientErr == nil || base.KindOf(serverErr) != base.KindWrongCluster {
		t.Errorf("client: %v; server: %v", clientErr, serverErr)
	}
}

func TestFilesKeepWhatWasIssued(t *testing.T) {
	dir, f := t.TempDir()+"/certs", disk()
	if _, err := pki.LoadFiles(f, dir); base.KindOf(err) != base.KindNotFound {
		t.Errorf("load from nowhere: %v", err)
	}
	if err := authority().Save(f, dir); err != nil {
		t.Fatal(err)
	}
	if err := newAuthority(5).Save(f, dir); base.KindOf(err) != base.KindExists {
		t.Errorf("a second authority in one folder: %v", err)
	}
	ca, err := pki.LoadCA(f, dir)
	if err != nil || ca.ClusterID() != cluster {
		t.Fatalf("load authority: %v", err)
	}
	if err := issue(t, ca, alice, start).Save(f, dir); err != nil {
		t.Fatal(err)
	}
	id, err := pki.LoadFiles(f, dir)
	if err != nil || id.Node() != alice || id.ClusterID() != cluster {
		t.Fatalf("load: %v", err)
	}
	for _, name := range []string{pki.AuthorityKeyFile, pki.NodeFile} {
		info, err := os.Stat(dir + "/" + name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
	_, clientErr, serverErr := handshake(t, id.TLSConfig(at(start), bob), issue(t, ca, bob, start).ServerTLSConfig(at(start)))
	if clientErr != nil || serverErr != nil {
		t.Errorf("handshake with what was loaded: %v, %v", clientErr, serverErr)
	}
	if err := issue(t, newAuthority(5), alice, start).Save(f, dir); base.KindOf(err) != base.KindWrongCluster {
		t.Errorf("certificate of another cluster over ours: %v", err)
	}
	if err := issue(t, ca, alice, start.Add(time.Hour)).Save(f, dir); err != nil {
		t.Errorf("renewal: %v", err)
	}
}

func TestUnsafeAndBrokenFilesAreRefused(t *testing.T) {
	dir, f := t.TempDir(), disk()
	if err := issue(t, authority(), alice, start).Save(f, dir); err != nil {
		t.Fatal(err)
	}
	name := dir + "/" + pki.NodeFile
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadFiles(f, dir); base.KindOf(err) != base.KindForbidden {
		t.Errorf("a key that everybody reads: %v", err)
	}
	if err := os.WriteFile(name, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadFiles(f, dir); err == nil {
		t.Error("nonsense was loaded")
	}
	stranger := t.TempDir()
	if err := issue(t, newAuthority(cluster), alice, start).Save(f, stranger); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(stranger+"/"+pki.NodeFile, name); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadFiles(f, dir); base.KindOf(err) != base.KindWrongCluster {
		t.Errorf("a certificate of another authority: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	dir, f := t.TempDir(), disk()
	id, err := authority().IssueNode(rand.Reader, start, pki.NodeOptions{Node: alice, Valid: 90 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Save(f, dir); err != nil {
		t.Fatal(err)
	}
	if err := id.Check(start.Add(89 * 24 * time.Hour)); err != nil {
		t.Errorf("before the end: %v", err)
	}
	if err := id.Check(start.Add(91 * 24 * time.Hour)); base.KindOf(err) != base.KindForbidden {
		t.Errorf("after the end: %v", err)
	}
	report, err := pki.Expiries(f, dir, start.Add(70*24*time.Hour))
	if err != nil || len(report) != 2 {
		t.Fatalf("report: %+v, %v", report, err)
	}
	if ca := report[0]; ca.RenewDue || ca.Left < 9*365*24*time.Hour {
		t.Errorf("authority: %+v", ca)
	}
	if node := report[1]; !node.RenewDue || node.Left != 20*24*time.Hour || !strings.Contains(node.Subject, alice.String()) {
		t.Errorf("node: %+v", node)
	}
	if got := id.RenewAt(); got.Before(start.Add(59*24*time.Hour)) || got.After(start.Add(61*24*time.Hour)) {
		t.Errorf("renewal is due at %s", got)
	}
}

func TestServerCertificateServesClients(t *testing.T) {
	dir, f := t.TempDir(), disk()
	made, err := authority().IssueServer(rand.Reader, start, pki.ServerOptions{Names: []string{"db.example", "::1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Save(f, dir); err != nil {
		t.Fatal(err)
	}
	server, err := pki.LoadServer(f, dir+"/"+pki.ServerFile, dir+"/"+pki.ServerFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority().CertificatePEM())
	for name, ok := range map[string]bool{"db.example": true, "::1": true, "other.example": false} {
		client := &tls.Config{RootCAs: roots, ServerName: name, Time: at(start)}
		_, clientErr, _ := handshake(t, client, server.TLSConfig(at(start)))
		if (clientErr == nil) != ok {
			t.Errorf("a client that knows the server as %s: %v", name, clientErr)
		}
	}
}
