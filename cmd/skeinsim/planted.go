package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skeindb/skein/internal/planted"
)

// hunt plants bugs and runs seeds until each is caught.
func (s settings) hunt(t *testing.T, from uint64) error {
	bugs := planted.All
	if s.planted != "all" {
		bugs = []planted.Bug{planted.Bug(s.planted)}
	}
	var missed []string
	began := processorTime()
	for _, bug := range bugs {
		caught, err := s.catch(t, bug, from)
		if err != nil {
			return err
		}
		if !caught {
			missed = append(missed, string(bug))
		}
	}
	fmt.Printf("%d of %d planted bugs were caught, in %v\n", len(bugs)-len(missed), len(bugs), (processorTime() - began).Round(time.Millisecond))
	if len(missed) > 0 {
		return fmt.Errorf("not caught within %d runs: %s", s.budget, strings.Join(missed, " "))
	}
	return nil
}

// catch runs seeds with a bug until one goes wrong.
func (s settings) catch(t *testing.T, bug planted.Bug, from uint64) (bool, error) {
	var spent time.Duration
	for i := range uint64(s.budget) {
		o := s.options(from + i)
		o.Planted, o.Plain = bug, true
		r, took, err := simulate(t, o)
		if err != nil {
			return false, err
		}
		spent += took
		if !r.Good() {
			first, _, _ := strings.Cut(r.Failures[0], "\n")
			fmt.Printf("%-20s caught by seed %d, run %d, after %v: %.150s\n", bug, o.Seed, i+1, spent.Round(time.Millisecond), first)
			return true, nil
		}
	}
	fmt.Printf("%-20s NOT CAUGHT by %d runs, in %v\n", bug, s.budget, spent.Round(time.Millisecond))
	return false, nil
}
