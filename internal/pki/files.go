package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
)

// The files of a certificate folder. NodeFile and ServerFile hold certificate
// and key together, so that a renewal replaces both in one step.
const (
	AuthorityFile    = "ca.crt"
	AuthorityKeyFile = "ca.key"
	NodeFile         = "node.pem"
	ServerFile       = "server.pem"
)

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// pair is a certificate with its key, and the PEM text of both.
type pair struct {
	text        []byte
	certificate tls.Certificate
}

func parsePair(text []byte) (*pair, error) {
	c, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("read certificate and key: %w", err)
	}
	return &pair{text: text, certificate: c}, nil
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, errors.New("no private key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("private key is %T, want ECDSA", key)
}

// loadAuthority reads the authority's certificate, without its key.
func loadAuthority(f env.FS, dir string) (*x509.Certificate, uint64, error) {
	name := dir + "/" + AuthorityFile
	text, err := f.ReadFile(name)
	if err != nil {
		return nil, 0, missing(name, err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != certificateBlock {
		return nil, 0, base.Errorf(base.KindInvalid, "%s: no certificate in PEM form", name)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	cluster, node, err := identityOf(c)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	if node != 0 || !c.IsCA {
		return nil, 0, base.Errorf(base.KindInvalid, "%s is not a certificate authority", name)
	}
	return c, cluster, nil
}

func writeFile(f env.FS, dir, name string, data []byte) error {
	if err := f.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if err := env.WriteFile(f, dir, name, data); err != nil {
		return fmt.Errorf("write %s/%s: %w", dir, name, err)
	}
	return nil
}

// readSecret reads a file that holds a private key and refuses one that other
// users can read or that the group can write.
func readSecret(f env.FS, name string) ([]byte, error) {
	info, err := f.Stat(name)
	if err != nil {
		return nil, missing(name, err)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, base.Errorf(base.KindForbidden, "%s holds a private key and has mode %04o", name, mode).
			WithHint("chmod 600 %s", name)
	}
	data, err := f.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

func missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &base.Error{Kind: base.KindNotFound, Message: name + " does not exist", Err: err,
			Hint: "make certificates with \"skein cert ca\" and \"skein cert node\""}
	}
	return fmt.Errorf("read %s: %w", name, err)
}

// Expiry says when the certificate of a file ends.
type Expiry struct {
	File     string        `json:"file"`
	Subject  string        `json:"subject"`
	NotAfter time.Time     `json:"not_after"`
	Left     time.Duration `json:"left_ns"` // negative once it has expired
	RenewDue bool          `json:"renew_due"`
}

// Expiries reports on every certificate in dir; files that are not there are
// left out.
func Expiries(f env.FS, dir string, now time.Time) ([]Expiry, error) {
	var all []Expiry
	for _, name := range []string{AuthorityFile, NodeFile, ServerFile} {
		text, err := f.ReadFile(dir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s/%s: %w", dir, name, err)
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != certificateBlock {
			return nil, base.Errorf(base.KindInvalid, "%s/%s: no certificate in PEM form", dir, name)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", dir, name, err)
		}
		all = append(all, Expiry{
			File: dir + "/" + name, Subject: c.Subject.CommonName, NotAfter: c.NotAfter,
			Left: c.NotAfter.Sub(now), RenewDue: !now.Before(renewAt(c)),
		})
	}
	return all, nil
}

// renewAt is when two thirds of a certificate's life are over.
func renewAt(c *x509.Certificate) time.Time {
	life := c.NotAfter.Sub(c.NotBefore)
	return c.NotBefore.Add(life / 3 * 2)
}
