package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skeindb/skein/internal/base"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	goldenHello = hello{newest: 3, oldest: 1, class: classStream, cluster: 0x0102030405060708, from: 0x1111, to: 0x2222,
		instance: 0xa1a2a3a4a5a6a7a8, serial: 9}
	goldenAddressed = addressed{name: "session", body: []byte{0, 1, 2, 0xff}}
	goldenFailure   = &base.Error{Kind: base.KindNotLeader, Op: "insert", Message: "not the leader", Outcome: base.NotDone,
		Hint: "ask the leader", SQLState: "25006", Leader: 0x3333}
)

// TestGolden keeps the format as docs/format/peer.md has it.
func TestGolden(t *testing.T) {
	request := call{3 * time.Second, goldenAddressed}
	frame, err := codec{}.Marshal(framed{frameMessage, []byte("row")})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "hello\n%s", hex.Dump(goldenHello.encode()))
	fmt.Fprintf(&b, "addressed\n%s", hex.Dump(goldenAddressed.appendTo(nil)))
	fmt.Fprintf(&b, "call\n%s", hex.Dump(request.appendTo(nil)))
	fmt.Fprintf(&b, "frame\n%s", hex.Dump(frame.Materialize()))
	fmt.Fprintf(&b, "frame of a direct stream\n%s", hex.Dump(written(t, frameMessage, []byte("row"))))
	fmt.Fprintf(&b, "the end of one\n%s", hex.Dump(written(t, frameDone, nil)))
	fmt.Fprintf(&b, "failure\n%s\n", encodeFailure(goldenFailure))
	const name = "testdata/peer-v1.txt"
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || b.String() != string(want) {
		t.Errorf("the format has changed (%v):\n%s", err, b.String())
	}
	if h, err := decodeHello(goldenHello.encode()); err != nil || h != goldenHello {
		t.Errorf("hello came back as %+v, %v", h, err)
	}
	if e, err := decodeFailure(encodeFailure(goldenFailure)); err != nil || *e != *goldenFailure {
		t.Errorf("failure came back as %+v, %v", e, err)
	}
}

func TestDamagedHelloIsRefused(t *testing.T) {
	good := goldenHello.encode()
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if h, err := decodeHello(bad); err == nil {
			t.Errorf("byte %d damaged: %+v", i, h)
		}
	}
}

func TestLaterFailuresAreUnderstood(t *testing.T) {
	e, err := decodeFailure([]byte(`{"v":2,"kind":"melted","message":"x","outcome":"half done","more":[1]}`))
	if err != nil || e.Kind != "melted" || e.Outcome != base.Indeterminate {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestLongFailuresAreCut(t *testing.T) {
	long := strings.Repeat("ä\x00", 1<<16)
	b := encodeFailure(base.Errorf(base.KindSQL, "%s", long).WithHint("%s", long))
	if e, err := decodeFailure(b); err != nil || e.Kind != base.KindSQL || len(b) > 32<<10 {
		t.Errorf("%d bytes, %+v, %v", len(b), e, err)
	}
}

func FuzzHello(f *testing.F) {
	f.Add(goldenHello.encode())
	f.Add([]byte(helloMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		again, err := decodeHello(h.encode())
		if err != nil || again != h {
			t.Errorf("%+v became %+v, %v", h, again, err)
		}
		_ = self{node: 1, cluster: 2}.accept(h, 0, classControl, classStream, classCall, classFile, classBootstrap, classDirect)
	})
}

func FuzzAddressed(f *testing.F) {
	f.Add(goldenAddressed.appendTo(nil))
	f.Add([]byte{0})
	f.Add([]byte{255, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := decodeAddressed(b); err == nil && !bytes.Equal(a.appendTo(nil), b) {
			t.Errorf("%x became %+v", b, a)
		}
	})
}

func FuzzCall(f *testing.F) {
	f.Add(call{time.Second, goldenAddressed}.appendTo(nil))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255, 1, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := decodeCall(b); err == nil && (c.patience < 0 || !bytes.Equal(c.appendTo(nil), b)) {
			t.Errorf("%x became %+v", b, c)
		}
	})
}

func FuzzFailure(f *testing.F) {
	f.Add(encodeFailure(goldenFailure))
	f.Add([]byte(`{"v":1,"kind":"x","leader":"0"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeFailure(b); err == nil && e.Kind == "" {
			t.Errorf("%q became %+v", b, e)
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 1, 2})
	f.Add([]byte{1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if msg, err := received(b); err == nil && len(msg) != len(b)-1 {
			t.Errorf("%x became %x", b, msg)
		}
	})
}

// bytesConn is a connection that gives what it was given.
type bytesConn struct {
	net.Conn
	bytes.Buffer
}

func (c *bytesConn) Read(b []byte) (int, error)  { return c.Buffer.Read(b) }
func (c *bytesConn) Write(b []byte) (int, error) { return c.Buffer.Write(b) }

// written is a frame as a direct stream sends it.
func written(t *testing.T, kind frameKind, body []byte) []byte {
	t.Helper()
	var c bytesConn
	f := newFrames(&c)
	if err := f.write(kind, body); err != nil {
		t.Fatal(err)
	}
	return c.Bytes()
}

func FuzzDirectFrame(f *testing.F) {
	const limit = 1 << 10
	f.Add([]byte{4, 0, 0, 0, byte(frameMessage), 'r', 'o', 'w'})
	f.Add([]byte{1, 0, 0, 0, byte(frameDone)})
	f.Add([]byte{0, 0, 0, 0, byte(frameEnd)})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, byte(frameMessage)})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newFrames(&bytesConn{Buffer: *bytes.NewBuffer(bytes.Clone(b))})
		for left := b; ; {
			kind, body, err := in.read(limit)
			if err != nil {
				if n := len(left); n >= frameHead && int64(binary.LittleEndian.Uint32(left))-1 == int64(n-frameHead) && n-frameHead <= limit {
					t.Errorf("%x is refused: %v", left, err)
				}
				return
			}
			again := written(t, kind, body)
			if len(body) > limit || !bytes.HasPrefix(left, again) {
				t.Fatalf("%x became kind %d with %x", left, kind, body)
			}
			left = left[len(again):]
		}
	})
}

// TestHelloRules is the table of who is let in.
func TestHelloRules(t *testing.T) {
	me := self{node: 0x11, cluster: 0xc, instance: 7}
	good := hello{newest: 1, oldest: 1, class: classCall, cluster: 0xc, from: 0x22, to: 0x11}
	cases := []struct {
		name      string
		change    func(*hello)
		certified base.NodeID
		want      base.Kind
	}{
		{"a peer", func(*hello) {}, 0x22, ""},
		{"a newer peer that still speaks ours", func(h *hello) { h.newest = 9 }, 0x22, ""},
		{"a peer that is too new", func(h *hello) { h.newest, h.oldest = 9, 2 }, 0x22, base.KindUnsupported},
		{"a peer that is too old", func(h *hello) { h.newest, h.oldest = 0, 0 }, 0x22, base.KindUnsupported},
		{"another cluster", func(h *hello) { h.cluster = 0xd }, 0, base.KindWrongCluster},
		{"no cluster", func(h *hello) { h.cluster = 0 }, 0, base.KindWrongCluster},
		{"no cluster yet", func(h *hello) { h.cluster, h.to, h.class = 0, 0, classBootstrap }, 0, ""},
		{"another cluster, joining", func(h *hello) { h.cluster, h.class = 0xd, classBootstrap }, 0, base.KindWrongCluster},
		{"meant for another", func(h *hello) { h.to = 0x33 }, 0x22, base.KindWrongCluster},
		{"meant for anybody", func(h *hello) { h.to = 0 }, 0x22, base.KindWrongCluster},
		{"not who the certificate says", func(*hello) {}, 0x44, base.KindWrongCluster},
		{"nobody", func(h *hello) { h.from = 0 }, 0, base.KindInvalid},
		{"no class", func(h *hello) { h.class = 0 }, 0x22, base.KindInvalid},
		{"ourselves", func(h *hello) { h.from, h.instance = 0x11, 7 }, 0, ""},
		{"our double", func(h *hello) { h.from, h.instance = 0x11, 8 }, 0, base.KindWrongCluster},
	}
	for _, c := range cases {
		h := good
		c.change(&h)
		if err := me.accept(h, c.certified, classCall, classBootstrap); base.KindOf(err) != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestOneConnectionDelivers: a newer connection of a peer waits until the
// older one has delivered its last message; an older one is turned away.
func TestOneConnectionDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var in inbound
		conn := func() *serverConn {
			raw, _ := net.Pipe()
			return &serverConn{Conn: raw, raw: raw}
		}
		first := hello{from: 1, instance: 5, serial: 1}
		second := hello{from: 1, instance: 5, serial: 2}
		release, err := in.claim(t.Context(), first, conn())
		if err != nil {
			t.Fatal(err)
		}
		claimed := make(chan func(), 1)
		go func() {
			r, err := in.claim(context.Background(), second, conn())
			if err != nil {
				t.Error(err)
			}
			claimed <- r
		}()
		synctest.Wait()
		if len(claimed) != 0 {
			t.Fatal("two connections deliver at once")
		}
		if _, err := in.claim(t.Context(), first, conn()); base.KindOf(err) != base.KindInvalid {
			t.Errorf("the older connection came back: %v", err)
		}
		release()
		(<-claimed)()
		restarted := hello{from: 1, instance: 6, serial: 1}
		r, err := in.claim(t.Context(), restarted, conn())
		if err != nil {
			t.Fatalf("a restarted peer: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		refused := make(chan error, 1)
		go func() {
			_, err := in.claim(ctx, hello{from: 1, instance: 7, serial: 1}, conn())
			refused <- err
		}()
		cancel()
		synctest.Wait()
		if len(refused) != 0 {
			t.Error("a claim that gave up let go before the older one had ended")
		}
		r()
		if err := <-refused; err == nil {
			t.Error("a claim that gave up was granted")
		}
	})
}
