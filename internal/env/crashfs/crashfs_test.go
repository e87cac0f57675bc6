package crashfs_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/env/crashfs"
)

func create(t testing.TB, d *crashfs.Disk, name string) env.File {
	t.Helper()
	f, err := d.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, f env.File, offset int64, data string) {
	t.Helper()
	_, err := f.WriteAt([]byte(data), offset)
	must(t, err)
}

func TestSyncedSurvivesEveryCrash(t *testing.T) {
	for seed := range uint64(50) {
		d := crashfs.New()
		f := create(t, d, "/a")
		write(t, f, 0, "safe")
		must(t, f.Sync())
		must(t, d.SyncDir("/"))
		write(t, f, 4, "lost?")
		d.Crash(seed)
		got, err := d.ReadFile("/a")
		must(t, err)
		if !bytes.HasPrefix(got, []byte("safe")) {
			t.Fatalf("seed %d: %q", seed, got)
		}
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, crashfs.ErrCrashed) {
			t.Fatalf("a handle outlived the crash: %v", err)
		}
	}
}

// TestCrashesDiffer checks that seeds reach each outcome that a caller must
// be ready for: unsynced data lost, whole, torn; names lost and kept.
func TestCrashesDiffer(t *testing.T) {
	var lost, whole, torn, second, nameLost, nameKept bool
	for seed := range uint64(200) {
		d := crashfs.New()
		f := create(t, d, "/a")
		must(t, f.Sync())
		must(t, d.SyncDir("/"))
		one, two := bytes.Repeat([]byte{1}, 600), bytes.Repeat([]byte{2}, 600)
		write(t, f, 0, string(one))
		write(t, f, 600, string(two))
		create(t, d, "/b")
		d.Crash(seed)
		got, err := d.ReadFile("/a")
		must(t, err)
		lost = lost || len(got) == 0
		whole = whole || bytes.Equal(got, append(one, two...))
		torn = torn || (len(got) > 0 && len(got) < 600)
		second = second || (len(got) == 1200 && got[0] == 0)
		_, err = d.Stat("/b")
		nameLost, nameKept = nameLost || err != nil, nameKept || err == nil
	}
	if !lost || !whole || !torn || !second || !nameLost || !nameKept {
		t.Errorf("lost %v, whole %v, torn %v, later without earlier %v, name lost %v, name kept %v",
			lost, whole, torn, second, nameLost, nameKept)
	}
}

func TestSectorHoldsAPrefixOfItsWrites(t *testing.T) {
	for seed := range uint64(200) {
		d := crashfs.New()
		f := create(t, d, "/a")
		must(t, d.SyncDir("/"))
		write(t, f, 0, "aaaa")
		write(t, f, 2, "bbbb")
		d.Crash(seed)
		got, err := d.ReadFile("/a")
		must(t, err)
		if bytes.Contains(got, []byte("b")) && !bytes.HasPrefix(got, []byte("aab")) {
			t.Fatalf("seed %d: the second write without the first: %q", seed, got)
		}
	}
}

func TestFailedSyncDropsDirtyPages(t *testing.T) {
	dropped := false
	for n := range 40 {
		d := crashfs.New()
		f := create(t, d, "/a")
		must(t, d.SyncDir("/"))
		for range n { // moves the call number, which chooses what is dropped
			_, _ = d.Stat("/a")
		}
		write(t, f, 0, "data")
		d.Inject(func(c crashfs.Call) error {
			if c.Op == crashfs.OpSync {
				return syscall.EIO
			}
			return nil
		})
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("sync: %v", err)
		}
		d.Inject(nil)
		must(t, f.Sync())
		if got, err := d.ReadFile("/a"); err != nil || string(got) != "data" {
			t.Fatalf("programs see %q, %v", got, err)
		}
		d.Crash(1)
		got, err := d.ReadFile("/a")
		must(t, err)
		dropped = dropped || len(got) == 0
	}
	if !dropped {
		t.Error("a sync after a failed one always wrote the pages")
	}
}

func TestFull(t *testing.T) {
	d := crashfs.New()
	d.SetCapacity(100)
	f := create(t, d, "/a")
	must(t, f.Allocate(60))
	g := create(t, d, "/b")
	n, err := g.WriteAt(make([]byte, 50), 0)
	if n != 40 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("wrote %d, %v", n, err)
	}
	write(t, f, 0, string(make([]byte, 60)))
	if err := g.Allocate(41); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("allocate: %v", err)
	}
	must(t, d.Remove("/a"))
	if free, _ := d.Free("/"); free != 60 {
		t.Fatalf("free: %d", free)
	}
	must(t, g.Allocate(100))
}

func TestRenameReplacesAtOnce(t *testing.T) {
	for seed := range uint64(50) {
		d := crashfs.New()
		must(t, env.WriteFile(d, "/", "a", []byte("old")))
		must(t, env.WriteFile(d, "/", "a", []byte("new")))
		must(t, func() error {
			f := create(t, d, "/a.tmp")
			write(t, f, 0, "newest")
			must(t, f.Sync())
			return d.Rename("/a.tmp", "/a")
		}())
		d.Crash(seed)
		got, err := d.ReadFile("/a")
		must(t, err)
		if !slices.Contains([]string{"new", "newest"}, string(got)) {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

func TestFailNth(t *testing.T) {
	d := crashfs.New()
	f := create(t, d, "/a")
	inject, fired := crashfs.FailNth(2, syscall.EIO, func(c crashfs.Call) bool { return c.Op == crashfs.OpWrite })
	d.Inject(inject)
	write(t, f, 0, "aaaa")
	n, err := f.WriteAt([]byte("bbbb"), 4)
	if n != 2 || !errors.Is(err, syscall.EIO) || !fired.Load() {
		t.Fatalf("second write: %d, %v, fired %v", n, err, fired.Load())
	}
	write(t, f, 4, "cccc")
	must(t, d.Damage("/a", 0, 1))
	if got, _ := d.ReadFile("/a"); string(got) != "`aaacccc" {
		t.Fatalf("%q", got)
	}
}

// TestSameSeedSameDisk runs random calls twice and crashes both disks alike.
func TestSameSeedSameDisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		steps := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 30).Draw(t, "steps")
		run := func() *crashfs.Disk {
			d := crashfs.New()
			for i, step := range steps {
				name := []string{"/a", "/b"}[i%2]
				f, err := d.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				switch step {
				case 0, 1:
					_, err = f.WriteAt(bytes.Repeat([]byte{byte(i)}, 700), int64(i*100))
				case 2:
					err = f.Sync()
				case 3:
					err = d.SyncDir("/")
				case 4:
					err = d.Rename(name, "/c")
				case 5:
					err = f.Truncate(int64(i * 50))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			return d
		}
		one, two := run(), run().CrashClone(seed)
		one.Crash(seed)
		if !slices.Equal(one.Files(), two.Files()) {
			t.Fatalf("%v, %v", one.Files(), two.Files())
		}
		for _, name := range one.Files() {
			a, _ := one.ReadFile(name)
			b, _ := two.ReadFile(name)
			if !bytes.Equal(a, b) {
				t.Fatalf("%s differs", name)
			}
		}
	})
}
