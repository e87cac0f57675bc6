package node_test

import (
	"testing"
	"time"

	"github.com/skeindb/skein/internal/base"
	"github.com/skeindb/skein/internal/session"
	"github.com/skeindb/skein/internal/token"
)

// passOn gives a session what another has seen.
func passOn(t *testing.T, from, to session.Session) {
	t.Helper()
	text, err := from.Show(t.Context(), "skein.token")
	if err == nil {
		err = to.Set("skein.token", text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// One asks in a database, a second reads that there and answers in another, and a
// third, who has nothing of either, sees the answer on a node where the first
// database is late: it sees the question too.
func TestNoAnswerIsSeenBeforeItsQuestion(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, s session.Session, sql string) string{
		"statements": func(t *testing.T, s session.Session, sql string) string { return query(t, s, sql) },
		"transactions": func(t *testing.T, s session.Session, sql string) string {
			query(t, s, "BEGIN")
			got := query(t, s, sql)
			query(t, s, "COMMIT")
			return got
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, b *bubble) { askAndAnswer(t, b, do) })
		})
	}
}

func askAndAnswer(t *testing.T, b *bubble, do func(t *testing.T, s session.Session, sql string) string) {
	const asker, answerer, reader = base.NodeID(1), base.NodeID(2), base.NodeID(3)
	for name, leads := range map[string]base.NodeID{"questions": asker, "answers": answerer} {
		b.create(1, name, nil)
		b.sql(1, name, "CREATE TABLE item(id INTEGER PRIMARY KEY)")
		b.level(name)
		if b.leader(name) != leads {
			if _, err := b.nodes[1].Switchover(bounded(t, time.Minute), name, leads); err != nil {
				t.Fatal(err)
			}
		}
		b.level(name)
	}
	b.net.SetDelay(asker, reader, time.Second)
	do(t, b.open1(asker, "questions"), "INSERT INTO item VALUES (1)")

	reads, writes := b.open1(asker, "questions"), b.open1(asker, "answers")
	if got := do(t, reads, "SELECT count(*) FROM item"); got != "1" {
		t.Fatalf("the answerer sees %s questions", got)
	}
	passOn(t, reads, writes)
	do(t, writes, "INSERT INTO item VALUES (1)") // It travels to the leader.

	answers, questions := b.open1(reader, "answers"), b.open1(reader, "questions")
	b.eventually("the answer is seen", func() bool { return do(t, answers, "SELECT count(*) FROM item") == "1" })
	if err := questions.Set("skein.read", "any"); err != nil {
		t.Fatal(err)
	}
	passOn(t, answers, questions)
	if got := do(t, questions, "SELECT count(*) FROM item"); got != "0" {
		t.Fatalf("the reader's replica of the questions is not late: it has %s", got)
	}
	if err := questions.Set("skein.read", "session"); err != nil {
		t.Fatal(err)
	}
	if got := do(t, questions, "SELECT count(*) FROM item"); got != "1" {
		t.Errorf("who has seen the answer sees %s questions", got)
	}
	// It stays so whoever leads the answers, and for who reads at a distance.
	if _, err := b.nodes[1].Switchover(bounded(t, time.Minute), "answers", reader); err != nil {
		t.Fatal(err)
	}
	far := b.open1(asker, "answers")
	if err := far.Set("skein.read", "leader"); err != nil {
		t.Fatal(err)
	}
	do(t, far, "SELECT count(*) FROM item")
	id := b.record(reader, "questions").ID
	if heard := seenBy(t, far).Heard(id); heard == (base.Position{}) || heard != seenBy(t, answers).Heard(id) {
		t.Errorf("of the questions one has heard %v at a distance, the other %v", heard, seenBy(t, answers).Heard(id))
	}
}

func seenBy(t *testing.T, s session.Session) token.Token {
	t.Helper()
	text, err := s.Show(t.Context(), "skein.token")
	if err != nil {
		t.Fatal(err)
	}
	seen, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// open1 is a session that ends with the test.
func (b *bubble) open1(on base.NodeID, name string) session.Session {
	b.t.Helper()
	s := b.session(on, name)
	b.t.Cleanup(func() { s.Close() })
	return s
}
