package pki

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/skeindb/skein/internal/base"
)

const scheme = "skein"

// clusterName is the URI name of an authority.
func clusterName(cluster uint64) *url.URL {
	return &url.URL{Scheme: scheme, Host: fmt.Sprintf("%016x", cluster)}
}

// nodeName is the URI name of a node.
func nodeName(cluster uint64, node base.NodeID) *url.URL {
	u := clusterName(cluster)
	u.Path = "/node/" + node.String()
	return u
}

// identityOf returns whom a certificate names; node is zero for an authority.
func identityOf(c *x509.Certificate) (cluster uint64, node base.NodeID, err error) {
	var name *url.URL
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		if name != nil {
			return 0, 0, fmt.Errorf("certificate names two identities, %s and %s", name, u)
		}
		name = u
	}
	if name == nil {
		return 0, 0, fmt.Errorf("certificate of %q names no node of a cluster", c.Subject.CommonName)
	}
	return parseName(name)
}

func parseName(u *url.URL) (uint64, base.NodeID, error) {
	cluster, err := parseCluster(u.Host)
	if err != nil {
		return 0, 0, fmt.Errorf("certificate name %s: %w", u, err)
	}
	if u.Path == "" {
		return cluster, 0, nil
	}
	digits, ok := strings.CutPrefix(u.Path, "/node/")
	if !ok || len(digits) != 16 {
		return 0, 0, fmt.Errorf("certificate name %s: want %s://CLUSTER/node/NODE", u, scheme)
	}
	node, err := base.ParseNodeID(digits)
	if err != nil {
		return 0, 0, fmt.Errorf("certificate name %s: %w", u, err)
	}
	return cluster, node, nil
}

func parseCluster(digits string) (uint64, error) {
	v, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || len(digits) != 16 || v == 0 {
		return 0, fmt.Errorf("cluster id %q: want 16 hexadecimal digits, not all zero", digits)
	}
	return v, nil
}
