package sim

import (
	"testing"
	"time"
)

func TestReadingHasBothClocks(t *testing.T) {
	wall := time.Date(2000, 1, 1, 0, 0, 7, 12345, time.UTC)
	r := reading(wall, 3*time.Second)
	if !r.Equal(wall) || r.UnixNano() != wall.UnixNano() {
		t.Errorf("wall time %v, want %v", r, wall)
	}
	later := reading(wall.Add(-time.Hour), 5*time.Second)
	if d := later.Sub(r); d != 2*time.Second {
		t.Errorf("%v have passed, want 2s", d)
	}
	if d := r.Add(time.Second).Sub(r); d != time.Second {
		t.Errorf("a second more is %v", d)
	}
}
