//go:build !wrongclock

package main

import "github.com/skeindb/skein/internal/env"

// setClock leaves the clock alone: only programs that are built for tests, with
// the tag wrongclock, can have a wrong one.
func (a *app) setClock(*env.Env) error { return nil }
