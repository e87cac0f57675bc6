package sqltext

// SavepointAction is what a savepoint statement does.
type SavepointAction uint8

// The actions.
const (
	SavepointNew     SavepointAction = iota + 1 // SAVEPOINT name
	SavepointRelease                            // RELEASE [SAVEPOINT] name
	SavepointBack                               // ROLLBACK [TRANSACTION] TO [SAVEPOINT] name
)

// ParseSavepoint reads a savepoint statement; the action is zero for any other
// text. The name is unquoted.
func ParseSavepoint(sql string) (action SavepointAction, name string) {
	s := Scanner{SQL: sql}
	switch {
	case s.Word("SAVEPOINT"):
		action = SavepointNew
	case s.Word("RELEASE"):
		s.Word("SAVEPOINT")
		action = SavepointRelease
	case s.Word("ROLLBACK"):
		s.Word("TRANSACTION")
		if !s.Word("TO") {
			return 0, ""
		}
		s.Word("SAVEPOINT")
		action = SavepointBack
	default:
		return 0, ""
	}
	t, ok := s.Next()
	if !ok {
		return 0, ""
	}
	return action, Unquote(t.Text(sql))
}
