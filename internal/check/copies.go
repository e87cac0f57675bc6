package check

import (
	"fmt"

	"github.com/skeindb/skein/internal/base"
)

// Copies finds replicas whose content differs at one position, and final
// copies that are not level.
func Copies(h *History) (found []Finding) {
	at := map[base.Position]Copy{}
	var last *Copy
	for i, c := range h.Copies {
		if c.Hash == "" {
			continue
		}
		if other, known := at[c.Position]; known && other.Hash != c.Hash {
			found = append(found, Finding{Check: "replicas differ",
				Text: fmt.Sprintf("at %s, %s has the content %s (seen at %v) and %s has %s (at %v)",
					c.Position, other.Node, other.Hash, other.At, c.Node, c.Hash, c.At)})
		} else if !known {
			at[c.Position] = c
		}
		if !c.Final {
			continue
		}
		if last != nil && last.Position != c.Position {
			found = append(found, Finding{Check: "replicas not level",
				Text: fmt.Sprintf("in the end %s is at %s and %s at %s", last.Node, last.Position, c.Node, c.Position)})
		}
		last = &h.Copies[i]
	}
	return found
}
