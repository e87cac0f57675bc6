package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/planted"
	"github.com/skeindb/skein/internal/sim"
)

// betweenHunts is by how much the seeds of two hunts for a bug differ.
const betweenHunts = 1000

// hunt plants bugs and runs seeds until each is caught.
func (s settings) hunt(t *testing.T, from uint64) error {
	bugs := planted.All
	if s.planted != "all" {
		bugs = []planted.Bug{planted.Bug(s.planted)}
	}
	var missed []string
	began := processorTime()
	for _, bug := range bugs {
		var runs []int
		for i := range s.hunts {
			run, err := s.catch(t, bug, from+uint64(i)*betweenHunts)
			if err != nil {
				return err
			}
			if run == 0 {
				missed = append(missed, string(bug))
				run = planted.Runs(bug, s.budget) + 1
			}
			runs = append(runs, run)
		}
		if len(runs) > 1 {
			slices.Sort(runs)
			fmt.Printf("%-20s of %d hunts: median run %d, last %d\n", bug, len(runs), runs[len(runs)/2], runs[len(runs)-1])
		}
	}
	fmt.Printf("%d of %d hunts for planted bugs caught theirs, in %v\n", s.hunts*len(bugs)-len(missed), s.hunts*len(bugs),
		(processorTime() - began).Round(time.Millisecond))
	if len(missed) > 0 {
		return fmt.Errorf("not caught: %s", strings.Join(missed, " "))
	}
	return nil
}

// catch runs seeds with a bug until one goes wrong, and returns which run that
// was: zero for none.
func (s settings) catch(t *testing.T, bug planted.Bug, from uint64) (int, error) {
	var spent time.Duration
	budget := planted.Runs(bug, s.budget)
	for i := range budget {
		o := s.options(from + uint64(i))
		o.Planted, o.Plain = bug, true
		if o.Scenario == "" {
			o.Scenario = planted.Scenario(bug)
		}
		r, took, err := traced(t, o, s.trace)
		if err != nil {
			return 0, err
		}
		spent += took
		if !r.Good() {
			first, _, _ := strings.Cut(r.Failures[0], "\n")
			fmt.Printf("%-20s %-9s caught by seed %d, run %d, after %v: %.150s\n", bug, aimOf(o), o.Seed, i+1, spent.Round(time.Millisecond), first)
			return i + 1, nil
		}
	}
	fmt.Printf("%-20s NOT CAUGHT by %d runs, in %v\n", bug, budget, spent.Round(time.Millisecond))
	return 0, nil
}

func aimOf(o sim.Options) string {
	if o.Scenario == "" {
		return "any"
	}
	return o.Scenario
}
