package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/cobra"

	"github.com/skeindb/skein/internal/adminclient"
	"github.com/skeindb/skein/internal/base"
)

func (a *app) snapshotCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "snapshot DATABASE FILE",
		Short: "Download a database as an SQLite file",
		Long: "snapshot downloads a consistent copy of one replica, checks it, and only then gives it\n" +
			"its name: FILE is either whole or not there.",
		Example: "  skein snapshot main backup.db\n  skein snapshot main backup.db --url http://db2:8441   # from that node's replica",
		Args:    exact("DATABASE", "FILE"),
		RunE: a.asking(func(ctx context.Context, client *adminclient.Client, args []string) error {
			return a.snapshot(ctx, client, args[0], args[1], force)
		}),
	}
	c.Flags().BoolVar(&force, "force", false, "replace FILE when it is there")
	return a.remote(a.withJSON(c))
}

func (a *app) snapshot(ctx context.Context, client *adminclient.Client, database, path string, force bool) error {
	if _, err := os.Lstat(path); err == nil && !force {
		return base.Errorf(base.KindExists, "%s is there already", path).WithHint("Choose another name, or give --force.")
	}
	if leftover(path, "-wal") || leftover(path, "-journal") {
		return base.Errorf(base.KindExists, "beside %s lies a journal of another database, which would spoil the copy", path).
			WithHint("Choose another name.")
	}
	s, err := client.Snapshot(ctx, database)
	if err != nil {
		return err
	}
	defer s.Body.Close()
	part, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return base.Errorf(base.KindInvalid, "%w", err)
	}
	defer os.Remove(part.Name()) // Gone already once it has its name.
	err = a.download(s, part)
	err = errors.Join(err, part.Close())
	if err == nil {
		err = verifyDatabase(ctx, part.Name())
	}
	if err == nil {
		err = place(part.Name(), path, force)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"database": database, "file": path, "bytes": s.Size, "position": s.Position})
	}
	return a.done("%s holds database %s at position %s (%s, checked).", path, database, s.Position, bytesText(s.Size))
}

func (a *app) download(s *adminclient.Snapshot, to *os.File) error {
	bar := a.progress(s.Size, "Downloading")
	n, err := io.Copy(io.MultiWriter(to, bar), s.Body)
	_ = bar.Exit() // Only the display.
	if err == nil && n != s.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return base.Errorf(base.KindUnavailable, "the download broke off after %s of %s: %w", bytesText(n), bytesText(s.Size), err)
	}
	if err := to.Sync(); err != nil {
		return base.Errorf(base.KindDiskFull, "%w", err)
	}
	return nil
}

// place gives the file its name and makes that last.
func place(from, to string, force bool) error {
	var err error
	if force {
		err = os.Rename(from, to)
	} else if err = os.Link(from, to); errors.Is(err, fs.ErrExist) {
		return base.Errorf(base.KindExists, "%s has appeared meanwhile", to)
	} else if err != nil {
		err = os.Rename(from, to) // Not every file system has links.
	}
	if err != nil {
		return base.Errorf(base.KindInvalid, "%w", err)
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// verifyDatabase opens a file as SQLite does and checks all its pages. It
// leaves no files beside it.
func verifyDatabase(ctx context.Context, path string) (err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	name := url.URL{Scheme: "file", Path: abs, RawQuery: "immutable=1"}
	db, err := sqlite3.OpenFlags(name.String(), sqlite3.OPEN_READONLY|sqlite3.OPEN_URI)
	if err != nil {
		return base.Errorf(base.KindCorrupt, "the download is no database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetInterrupt(ctx)
	check, _, err := db.Prepare("PRAGMA quick_check(1)")
	if err != nil {
		return base.Errorf(base.KindCorrupt, "the download is no database: %w", err)
	}
	defer func() { err = errors.Join(err, check.Close()) }()
	result := ""
	if check.Step() {
		result = check.ColumnText(0)
	}
	if err := check.Err(); err != nil {
		return base.Errorf(base.KindCorrupt, "check the download: %w", err)
	}
	if result != "ok" {
		return base.Errorf(base.KindCorrupt, "the download is damaged: %s", result)
	}
	return nil
}
