package statement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skeindb/skein/internal/sqlite"
)

// equalEverywhere are the functions that give the same for the same arguments in
// every copy, or are made to. Others are not trusted. In format statement
// skein_emit does nothing anywhere.
var equalEverywhere = func() map[string]bool {
	known := make(map[string]bool)
	for name := range strings.FieldsSeq(`
		abs changes char coalesce concat concat_ws format glob hex if ifnull iif instr last_insert_rowid length like
		likelihood likely lower ltrim max min nullif octet_length printf quote random randomblob replace round rtrim sign
		soundex substr substring subtype total_changes trim typeof unhex unicode unistr unistr_quote unlikely upper zeroblob
		avg count group_concat string_agg sum total median percentile percentile_cont percentile_disc
		row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
		acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power
		radians sin sinh sqrt tan tanh trunc
		skein_emit regexp regexp_like regexp_count regexp_instr regexp_substr regexp_replace -> ->>`) {
		known[name] = true
	}
	return known
}()

func knownFunction(name string) bool {
	return equalEverywhere[name] || sqlite.AsksClock(name) || strings.HasPrefix(name, "json")
}

// reason says why a statement may do something else in another copy; "" when it
// does not.
func (f *facts) reason(sql string, touches sqlite.Touches) string {
	if i := slices.IndexFunc(touches.Functions, func(name string) bool { return !knownFunction(name) }); i >= 0 {
		return fmt.Sprintf("function %s() is not known to give the same everywhere", touches.Functions[i])
	}
	if i := slices.IndexFunc(touches.Functions, sqlite.AsksClock); i >= 0 && !f.fixedTime {
		return fmt.Sprintf("function %s() can't be given the leader's time while an index, CHECK or generated column uses such a function", touches.Functions[i])
	}
	if i := slices.IndexFunc(touches.Tables, func(name string) bool { return f.virtual[strings.ToLower(name)] }); i >= 0 {
		return fmt.Sprintf("table %s is virtual, or one of a virtual table", touches.Tables[i])
	}
	if limitWithoutOrder(sql) {
		return "LIMIT without ORDER BY"
	}
	if i := slices.IndexFunc(touches.Programs, func(name string) bool { return f.loose[strings.ToLower(name)] }); i >= 0 {
		return "LIMIT without ORDER BY in " + touches.Programs[i]
	}
	return ""
}
