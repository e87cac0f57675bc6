package pgwire

import (
	"strings"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/pgwire/catalogue"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/sqltext"
)

// catalogueClient is what the catalogue needs to know of a connection.
func (c *conn) catalogueClient() catalogue.Client {
	return catalogue.Client{
		Session: c.sess, Gateway: c.s.gateway, User: c.user, ProcessID: c.id, Version: c.s.options.Version,
		Setting: func(name string) (string, bool) {
			v, err := c.show(c.ctx, name)
			return v, err == nil
		},
		Settings:      settingNames(),
		Cursors:       c.cursors(),
		InTransaction: c.block != blockNone || c.implicit,
	}
}

func settingNames() []string {
	names := make([]string, len(knownSettings))
	for i, k := range knownSettings {
		names[i] = k.name
	}
	return names
}

func (c *conn) describeCatalogue(sql string) ([]column, int, error) {
	if err := c.park(); err != nil {
		return nil, 0, err
	}
	described, params, err := c.s.catalogues.Describe(c.ctx, c.catalogueClient(), sql)
	return catalogueColumns(sql, described), params, err
}

func (c *conn) runCatalogue(sql string, args []base.Value) (outcome, error) {
	if err := c.park(); err != nil {
		return outcome{}, err
	}
	r, err := c.s.catalogues.Query(c.ctx, c.catalogueClient(), sql, args)
	if err != nil {
		return outcome{}, err
	}
	rows := &memoryRows{values: r.Rows, result: session.Result{Tag: "SELECT"}}
	return outcome{columns: catalogueColumns(sql, r.Columns), rows: rows, tag: "SELECT"}, nil
}

func catalogueColumns(sql string, described []catalogue.Column) []column {
	columns := make([]column, len(described))
	items := sqltext.SelectItems(sql)
	for i, d := range described {
		columns[i] = column{name: d.Name, oid: d.Type}
		if d.Type == 0 && len(items) == len(described) {
			columns[i].oid = itemType(strings.TrimPrefix(items[i], "pg_catalog."))
		}
	}
	return columns
}
