// Package catalogue answers the queries of psql and drivers on pg_catalog and
// information_schema.
package catalogue
