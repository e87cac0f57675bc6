// Package config owns the settings of `skein serve`: their names, defaults and
// meaning, where they come from, and which combinations make sense.
//
// A setting is taken from the first place that has it: command line,
// environment, file, default. One table (settings.go) is the source of flags,
// variables and keys, so that the three cannot drift apart. A key in the file
// that is not in the table is an error with its line.
//
// The environment and files are functions, so that a test can give others. It
// must not import what it configures.
package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/skeindb/skein/internal/base"
)

// Serve is how one node runs.
type Serve struct {
	// Dir is the data folder. Required.
	Dir string
	// Name is for people; empty becomes the last part of Dir.
	Name string
	// PG, HTTP and Peer are the addresses to listen on.
	PG, HTTP, Peer string
	// Advertise is the peer address that other nodes dial; empty becomes Peer.
	Advertise string
	// Join holds peer addresses of members of a cluster. A node whose folder
	// is empty joins through one of them; with none it founds a cluster. Once
	// the folder belongs to a cluster Join has no effect.
	Join []string
	// Certs is the folder with ca.crt and node.pem, and optionally server.pem.
	Certs string
	// Insecure runs without certificates between nodes, on loopback only.
	Insecure bool
	// TrustLoopback lets clients on this machine in without a password.
	TrustLoopback bool
	// OpenMetrics shows /metrics without a password.
	OpenMetrics bool
	// LogLevel and LogFormat shape the log on standard error.
	LogLevel  slog.Level
	LogFormat LogFormat
}

// LogFormat is how log lines look.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// finish fills what follows from other settings and checks the whole.
func (s *Serve) finish() error {
	if s.Dir == "" {
		return base.Errorf(base.KindInvalid, "no data folder is given").WithHint("Give --dir, SKEIN_DIR, or dir in the file.")
	}
	if s.Name == "" {
		abs, err := filepath.Abs(s.Dir)
		if err != nil {
			return fmt.Errorf("data folder %s: %w", s.Dir, err)
		}
		s.Name = filepath.Base(abs)
	}
	if s.Advertise == "" {
		s.Advertise = s.Peer
	}
	for _, a := range []struct{ name, address string }{
		{"pg", s.PG}, {"http", s.HTTP}, {"peer", s.Peer}, {"advertise", s.Advertise},
	} {
		if err := checkAddress(a.name, a.address); err != nil {
			return err
		}
	}
	for _, address := range s.Join {
		if err := checkAddress("join", address); err != nil {
			return err
		}
	}
	return s.checkSecurity()
}

func checkAddress(name, address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return base.Errorf(base.KindInvalid, "%s %q: want HOST:PORT", name, address)
	}
	return nil
}

func (s *Serve) checkSecurity() error {
	switch {
	case s.Insecure && s.Certs != "":
		return base.Errorf(base.KindInvalid, "insecure and certs exclude each other")
	case !s.Insecure && s.Certs == "":
		return base.Errorf(base.KindInvalid, "nodes need certificates to know each other, and none are given").
			WithHint("Make them with `skein cert ca` and `skein cert node` and give --certs DIR; to try things on one machine, --insecure.")
	}
	if s.Insecure {
		for _, address := range append([]string{s.Peer, s.Advertise}, s.Join...) {
			if !Loopback(address) {
				return base.Errorf(base.KindInvalid, "insecure is for one machine, and %s is not a loopback address", address).
					WithHint("Use 127.0.0.1, or certificates (`skein cert ca`).")
			}
		}
	}
	host, _, _ := net.SplitHostPort(s.Advertise) // Checked above.
	if ip, err := netip.ParseAddr(host); host == "" || (err == nil && ip.IsUnspecified()) {
		return base.Errorf(base.KindInvalid, "other nodes cannot dial %s", s.Advertise).
			WithHint("Give --advertise HOST:PORT, the address under which they reach this node.")
	}
	return nil
}

// Loopback says whether HOST:PORT names this machine by a loopback address.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
