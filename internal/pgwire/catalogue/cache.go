package catalogue

import (
	"context"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/env"
	"github.com/skeindb/skein/internal/session"
)

type Client struct {
	Session       session.Session
	Gateway       session.Gateway
	User          string
	ProcessID     uint32
	Version       string
	Setting       func(string) (string, bool)
	Settings      []string
	InTransaction bool
}
type Column struct {
	Name string
	Type uint32
}
type Result struct {
	Columns []Column
	Rows    [][]base.Value
}
type Cache struct{ env *env.Env }

func NewCache(e *env.Env) *Cache { return &Cache{e} }
func (c *Cache) Close() error    { return nil }
func Wants(sql string) bool      { return false }
func (c *Cache) Query(ctx context.Context, cl Client, sql string, args []base.Value) (*Result, error) {
	return nil, nil
}
func (c *Cache) Describe(ctx context.Context, cl Client, sql string) ([]Column, int, error) {
	return nil, 0, nil
}
