package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// Lifetimes of what is issued, and how far back a certificate reaches so that
// a peer whose clock is slow accepts a fresh one.
const (
	AuthorityValid = 10 * 365 * 24 * time.Hour
	DefaultValid   = 365 * 24 * time.Hour
	backdate       = time.Hour
)

// CA is a cluster's certificate authority with its private key.
type CA struct {
	cluster     uint64
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes the authority of a cluster.
func NewCA(random io.Reader, now time.Time, cluster uint64) (*CA, error) {
	if cluster == 0 {
		return nil, base.Errorf(base.KindInvalid, "a certificate authority needs a cluster id other than zero")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	template, err := newTemplate(random, now, AuthorityValid, fmt.Sprintf("Skein cluster %016x", cluster))
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.URIs = []*url.URL{clusterName(cluster)}
	der, err := x509.CreateCertificate(random, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back authority certificate: %w", err)
	}
	return &CA{cluster: cluster, certificate: certificate, key: key}, nil
}

// ClusterID returns the id of the cluster that the authority speaks for.
func (ca *CA) ClusterID() uint64 { return ca.cluster }

// CertificatePEM returns the authority's certificate, which clients verify
// server certificates with. It is no secret.
func (ca *CA) CertificatePEM() []byte { return certificatePEM(ca.certificate.Raw) }

// Save writes ca.key and ca.crt into dir. It never replaces an authority.
func (ca *CA) Save(f env.FS, dir string) error {
	if _, err := f.Stat(dir + "/" + AuthorityFile); err == nil {
		return base.Errorf(base.KindExists, "there is a certificate authority in %s already", dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for an authority in %s: %w", dir, err)
	}
	key, err := keyPEM(ca.key)
	if err != nil {
		return err
	}
	// The certificate comes last: an authority without one has issued nothing
	// and may be replaced.
	if err := writeFile(f, dir, AuthorityKeyFile, key); err != nil {
		return err
	}
	return writeFile(f, dir, AuthorityFile, ca.CertificatePEM())
}

// LoadCA reads the authority and its key from dir.
func LoadCA(f env.FS, dir string) (*CA, error) {
	certificate, cluster, err := loadAuthority(f, dir)
	if err != nil {
		return nil, err
	}
	data, err := readSecret(f, dir+"/"+AuthorityKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", dir, AuthorityKeyFile, err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, base.Errorf(base.KindInvalid, "%s/%s is not the key of %s", dir, AuthorityKeyFile, AuthorityFile)
	}
	return &CA{cluster: cluster, certificate: certificate, key: key}, nil
}

// NodeOptions says whom a node certificate is for.
type NodeOptions struct {
	// Node is the node's id. Required.
	Node base.NodeID
	// Names are the host names and IP addresses the node is reached at. They
	// are for people and for tools such as curl; nodes do not check them.
	Names []string
	// Valid is how long the certificate lasts; 0 means DefaultValid.
	Valid time.Duration
}

// IssueNode makes a key and a certificate for a node.
func (ca *CA) IssueNode(random io.Reader, now time.Time, o NodeOptions) (*Identity, error) {
	if o.Node == 0 {
		return nil, base.Errorf(base.KindInvalid, "a node certificate needs a node id")
	}
	template, err := newTemplate(random, now, o.Valid, "skein node "+o.Node.String())
	if err != nil {
		return nil, err
	}
	template.URIs = []*url.URL{nodeName(ca.cluster, o.Node)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	addNames(template, o.Names)
	pair, err := ca.issue(random, template)
	if err != nil {
		return nil, err
	}
	return newIdentity(ca.certificate, ca.cluster, pair)
}

// ServerOptions says for which names clients know a server.
type ServerOptions struct {
	// Names are host names and IP addresses. At least one is required.
	Names []string
	// Valid is how long the certificate lasts; 0 means DefaultValid.
	Valid time.Duration
}

// IssueServer makes a key and a certificate for listeners that clients, not
// nodes, connect to.
func (ca *CA) IssueServer(random io.Reader, now time.Time, o ServerOptions) (*Server, error) {
	if len(o.Names) == 0 {
		return nil, base.Errorf(base.KindInvalid, "a server certificate needs at least one host name or address")
	}
	template, err := newTemplate(random, now, o.Valid, o.Names[0])
	if err != nil {
		return nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	addNames(template, o.Names)
	pair, err := ca.issue(random, template)
	if err != nil {
		return nil, err
	}
	return &Server{pair: pair}, nil
}

func (ca *CA) issue(random io.Reader, template *x509.Certificate) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(random, template, ca.certificate, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	secret, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return parsePair(bytes.Join([][]byte{certificatePEM(der), secret}, nil))
}

func newTemplate(random io.Reader, now time.Time, valid time.Duration, commonName string) (*x509.Certificate, error) {
	if valid < 0 {
		return nil, base.Errorf(base.KindInvalid, "a certificate cannot be valid for %s", valid)
	}
	if valid == 0 {
		valid = DefaultValid
	}
	var serial [16]byte
	if _, err := io.ReadFull(random, serial[:]); err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and never zero
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		Subject:      pkix.Name{CommonName: commonName, Organization: []string{"Skein"}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(valid),
	}, nil
}

func addNames(template *x509.Certificate, names []string) {
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
}
