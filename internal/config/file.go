package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/skeindb/skein/internal/base"
)

// fileValue is a key's value as the flag would be given it, and its line.
type fileValue struct {
	text string
	line int
}

// parseFile reads a TOML file of flat keys.
func parseFile(name string, data []byte) (map[string]fileValue, error) {
	var raw map[string]any
	meta, err := toml.Decode(string(data), &raw)
	if err != nil {
		if p, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, base.Errorf(base.KindInvalid, "%s:%d: %s", name, p.Position.Line, p.Message)
		}
		return nil, base.Errorf(base.KindInvalid, "%s: %w", name, err)
	}
	settings := Settings()
	values := map[string]fileValue{}
	for _, path := range meta.Keys() {
		key, line := path[0], lineOf(data, path)
		i := slices.IndexFunc(settings, func(s Setting) bool { return s.Key() == key })
		if i < 0 || len(path) > 1 {
			return nil, base.Errorf(base.KindInvalid, "%s:%d: unknown key %s", name, line, path).WithHint("%s", nearest(key, settings))
		}
		text, err := asText(settings[i].Kind, raw[key])
		if err != nil {
			return nil, base.Errorf(base.KindInvalid, "%s:%d: %s: %w", name, line, key, err)
		}
		values[key] = fileValue{text, line}
	}
	return values, nil
}

func asText(kind string, v any) (string, error) {
	switch v := v.(type) {
	case string:
		if kind != "bool" {
			return v, nil
		}
		return "", errors.New("want true or false, without quotes")
	case bool:
		if kind == "bool" {
			return fmt.Sprint(v), nil
		}
	case []any:
		parts := make([]string, len(v))
		for i, element := range v {
			text, ok := element.(string)
			if !ok || kind != "list" {
				return "", errors.New("want a string")
			}
			parts[i] = text
		}
		if kind == "list" {
			return strings.Join(parts, ","), nil
		}
	}
	if kind == "bool" {
		return "", errors.New("want true or false")
	}
	return "", errors.New("want a string in quotes")
}

// lineOf finds the line that defines a key. The library tells no positions of
// keys; the file is valid TOML here, so that a definition starts its line.
func lineOf(data []byte, path toml.Key) int {
	first := regexp.QuoteMeta(path[0])
	definition := regexp.MustCompile(`(?m)^\s*\[*\s*["']?` + first + `["']?\s*[=.\]]`)
	if at := definition.FindIndex(data); at != nil {
		// Leading white space in the match may span blank lines.
		text := data[at[0]:at[1]]
		blank := len(text) - len(strings.TrimLeft(string(text), " \t\r\n"))
		return 1 + strings.Count(string(data[:at[0]+blank]), "\n")
	}
	return 1
}

// nearest suggests the key that was meant, or lists them all.
func nearest(key string, settings []Setting) string {
	plain := strings.NewReplacer("-", "", "_", "", ".", "")
	names := make([]string, len(settings))
	for i, s := range settings {
		names[i] = s.Key()
		a, b := strings.ToLower(plain.Replace(key)), plain.Replace(s.Key())
		if a == b || (len(a) > 4 && distance(a, b) <= 2) {
			return "Did you mean " + s.Key() + "?"
		}
	}
	return "Known keys: " + strings.Join(names, ", ") + "."
}

// distance is the number of single-letter edits between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
