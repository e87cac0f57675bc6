package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// Identity is a node's certificate and key, and the authority that it checks
// its peers with. It does not change; a renewal makes a new one.
type Identity struct {
	cluster   uint64
	node      base.NodeID
	authority *x509.Certificate
	roots     *x509.CertPool
	pair      *pair
}

func newIdentity(authority *x509.Certificate, cluster uint64, p *pair) (*Identity, error) {
	id := &Identity{cluster: cluster, authority: authority, roots: x509.NewCertPool(), pair: p}
	id.roots.AddCert(authority)
	named, node, err := identityOf(p.certificate.Leaf)
	if err != nil {
		return nil, err
	}
	if node == 0 {
		return nil, base.Errorf(base.KindInvalid, "the certificate names a cluster but no node")
	}
	if named != cluster {
		return nil, base.Errorf(base.KindWrongCluster,
			"the certificate is for cluster %016x, the authority for cluster %016x", named, cluster)
	}
	if err := p.certificate.Leaf.CheckSignatureFrom(authority); err != nil {
		return nil, base.Errorf(base.KindWrongCluster, "the node certificate was not issued by this authority: %w", err)
	}
	id.node = node
	return id, nil
}

// LoadFiles reads a node's identity, ca.crt and node.pem, from dir. An expired
// certificate loads; Check says so.
func LoadFiles(f env.FS, dir string) (*Identity, error) {
	authority, cluster, err := loadAuthority(f, dir)
	if err != nil {
		return nil, err
	}
	text, err := readSecret(f, dir+"/"+NodeFile)
	if err != nil {
		return nil, err
	}
	p, err := parsePair(text)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", dir, NodeFile, err)
	}
	id, err := newIdentity(authority, cluster, p)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", dir, NodeFile, err)
	}
	return id, nil
}

// Save writes ca.crt and node.pem into dir, over what is there. It refuses to
// replace the certificate of another authority.
func (id *Identity) Save(f env.FS, dir string) error {
	old, _, err := loadAuthority(f, dir)
	switch {
	case err == nil && !old.Equal(id.authority):
		return base.Errorf(base.KindWrongCluster, "%s/%s is another cluster's authority", dir, AuthorityFile)
	case err != nil && base.KindOf(err) != base.KindNotFound:
		return err
	case err != nil:
		if err := writeFile(f, dir, AuthorityFile, certificatePEM(id.authority.Raw)); err != nil {
			return err
		}
	}
	return writeFile(f, dir, NodeFile, id.pair.text)
}

// ClusterID returns the cluster that the certificate names.
func (id *Identity) ClusterID() uint64 { return id.cluster }

// Node returns the node that the certificate names.
func (id *Identity) Node() base.NodeID { return id.node }

// NotAfter returns when the certificate ends.
func (id *Identity) NotAfter() time.Time { return id.pair.certificate.Leaf.NotAfter }

// RenewAt returns when the certificate ought to be renewed: after two thirds
// of its life.
func (id *Identity) RenewAt() time.Time { return renewAt(id.pair.certificate.Leaf) }

// Check says whether the certificate can be used now.
func (id *Identity) Check(now time.Time) error {
	return checkTime(id.pair.certificate.Leaf, now, "the certificate of node "+id.node.String())
}

func checkTime(c *x509.Certificate, now time.Time, what string) error {
	switch {
	case now.After(c.NotAfter):
		return base.Errorf(base.KindForbidden, "%s expired on %s", what, c.NotAfter.UTC().Format(time.RFC3339)).
			WithHint("renew it with \"skein cert node\"")
	case now.Before(c.NotBefore):
		return base.Errorf(base.KindForbidden, "%s is valid only from %s", what, c.NotBefore.UTC().Format(time.RFC3339)).
			WithHint("compare the clocks of the two machines")
	}
	return nil
}

// TLSConfig returns the client half of mutual TLS 1.3. The server must be node
// want of the same cluster; want zero accepts any node of it. The protocols
// are offered by ALPN.
func (id *Identity) TLSConfig(now func() time.Time, want base.NodeID, protocols ...string) *tls.Config {
	c := id.config(now, protocols)
	// Host names say nothing about who a node is, so that the standard check
	// is replaced, not dropped: VerifyConnection checks chain and identity.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		node, err := id.verify(s, now(), x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if want != 0 && node != want {
			return base.Errorf(base.KindWrongCluster, "reached node %s, want node %s", node, want)
		}
		return nil
	}
	return c
}

// ServerTLSConfig returns the server half of mutual TLS 1.3: clients must be
// nodes of the same cluster.
func (id *Identity) ServerTLSConfig(now func() time.Time, protocols ...string) *tls.Config {
	c := id.config(now, protocols)
	// No authority is named to the client: one of another cluster would then
	// show nothing, and the refusal could not say what is wrong.
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := id.verify(s, now(), x509.ExtKeyUsageClientAuth)
		return err
	}
	return c
}

func (id *Identity) config(now func() time.Time, protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.pair.certificate},
		NextProtos:   protocols,
		Time:         now,
		// Connections live long: a resumed session would save little and
		// would outlive a certificate.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

// verify checks the peer's chain, time, usage and cluster.
func (id *Identity) verify(s tls.ConnectionState, now time.Time, usage x509.ExtKeyUsage) (base.NodeID, error) {
	if len(s.PeerCertificates) == 0 {
		return 0, base.Errorf(base.KindWrongCluster, "the peer showed no certificate")
	}
	leaf := s.PeerCertificates[0]
	if err := checkTime(leaf, now, fmt.Sprintf("the peer's certificate (%s)", leaf.Subject.CommonName)); err != nil {
		return 0, err
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: id.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return 0, base.Errorf(base.KindWrongCluster, "the peer's certificate is not of this cluster: %w", err)
	}
	cluster, node, err := identityOf(leaf)
	if err != nil {
		return 0, base.Errorf(base.KindWrongCluster, "the peer is no node: %w", err)
	}
	if cluster != id.cluster || node == 0 {
		return 0, base.Errorf(base.KindWrongCluster, "the peer's certificate is for cluster %016x, this is %016x", cluster, id.cluster)
	}
	return node, nil
}

// PeerOf returns the node at the other end of a connection whose handshake a
// configuration of this package has verified.
func PeerOf(s tls.ConnectionState) (base.NodeID, error) {
	if !s.HandshakeComplete || len(s.PeerCertificates) == 0 {
		return 0, base.Errorf(base.KindWrongCluster, "the connection has no verified peer")
	}
	_, node, err := identityOf(s.PeerCertificates[0])
	return node, err
}

// Server is a certificate with key for listeners that clients connect to.
type Server struct{ pair *pair }

// Save writes server.pem into dir, over what is there.
func (s *Server) Save(f env.FS, dir string) error { return writeFile(f, dir, ServerFile, s.pair.text) }

// LoadServer reads a server's certificate chain and key from two files, which
// may be one and the same. They need not come from a cluster's authority.
func LoadServer(f env.FS, certificateFile, keyFile string) (*Server, error) {
	key, err := readSecret(f, keyFile)
	if err != nil {
		return nil, err
	}
	certificate, err := f.ReadFile(certificateFile)
	if err != nil {
		return nil, missing(certificateFile, err)
	}
	c, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", certificateFile, keyFile, err)
	}
	return &Server{pair: &pair{text: append(append([]byte(nil), certificate...), key...), certificate: c}}, nil
}

// NotAfter returns when the certificate ends.
func (s *Server) NotAfter() time.Time { return s.pair.certificate.Leaf.NotAfter }

// TLSConfig returns the configuration of a listener for clients, TLS 1.2 and
// later, without client certificates.
func (s *Server) TLSConfig(now func() time.Time, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{s.pair.certificate},
		NextProtos:   protocols,
		Time:         now,
	}
}
