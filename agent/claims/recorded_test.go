package claims

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/raftstore"
)

// recordLog makes the tests record a log of drawn transactions in a new file, after rules
// were added: go test ./agent/claims -run TestRecordedLogs -record NAME. A recorded file
// is never changed, since it says how the rules judge for ever.
var recordLog = flag.String("record", "", "record a log in testdata/log/`NAME`.jsonl, which must not exist")

// A recordedEntry is a line of a recorded log: an entry as replicas store it, the
// transactions in it and their verdicts. Txn and the reasons are for readers.
type recordedEntry struct {
	Entry    []byte
	Verdicts []recordedVerdict
	// Digest, of the last line, is the digest of the whole log, after its version; the
	// oldest logs have one of version 1 and no version before it.
	Digest string `json:",omitempty"`
}

type recordedVerdict struct {
	// Rules are the rules that the transaction calls, with their versions.
	Rules []string `json:",omitempty"`
	// Verdict is the outcome, its position and the revision.
	Verdict string
	Reason  string `json:",omitempty"`
}

// verdictText is what replicas must agree on: everything but the reason.
func verdictText(v raftstore.Verdict) string {
	return fmt.Sprintf("%s %d at %d", v.Outcome, v.Position, v.Revision)
}

// This build judges logs as the builds did that recorded them. If it did not, replicas of
// two versions would differ, and a log could not be replayed after an upgrade.
func TestRecordedLogsAreJudgedAsEver(t *testing.T) {
	if *recordLog != "" {
		record(t, *recordLog)
	}
	files, err := filepath.Glob("testdata/log/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded logs: %v", err)
	}
	refused, accepted := map[string]int{}, map[string]int{}
	compared := 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			if strings.HasPrefix(replayFile(t, file, refused, accepted), digestVersion+":") {
				compared++
			}
		})
	}
	if compared == 0 {
		t.Errorf("no recorded log has a digest of version %s; record one with -record", digestVersion)
	}
	// A rule that no log shows both ways could change unnoticed.
	for _, rule := range Rules() {
		name := ruleText(rule.Name, rule.Version)
		if refused[name] < 20 || accepted[name] < 20 {
			t.Errorf("the recorded logs hold %d refusals by %s and %d acceptances; record more with -record", refused[name], name, accepted[name])
		}
	}
}

func ruleText(name string, version uint32) string { return fmt.Sprintf("%s/v%d", name, version) }

// replayFile judges a recorded log and counts its verdicts by rule.
// It returns the digest of the log as it was recorded.
func replayFile(t *testing.T, file string, refused, accepted map[string]int) string {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	replay, err := raftstore.NewReplay(Rules())
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var last recordedEntry
	for n := 1; lines.Scan(); n++ {
		last = recordedEntry{}
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		verdicts, err := replay.Judge(last.Entry)
		if err != nil || len(verdicts) != len(last.Verdicts) {
			t.Fatalf("line %d: %d verdicts, want %d: %v", n, len(verdicts), len(last.Verdicts), err)
		}
		for i, want := range last.Verdicts {
			if got := verdictText(verdicts[i]); got != want.Verdict {
				t.Fatalf("line %d, transaction %d, which calls %v: %s (%s), recorded as %s (%s)",
					n, i, want.Rules, got, verdicts[i].Reason, want.Verdict, want.Reason)
			}
			switch verdicts[i].Outcome {
			case "refused":
				refused[want.Rules[verdicts[i].Position]]++
			case "applied":
				for _, rule := range want.Rules {
					accepted[rule]++
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if version, _, ok := strings.Cut(last.Digest, ":"); ok && version == digestVersion && replay.Digest() != last.Digest {
		t.Errorf("the digest is %s, recorded as %q", replay.Digest(), last.Digest)
	}
	return last.Digest
}

// digestVersion is the version of the digests that this build makes. It cannot make those
// of an earlier one.
const digestVersion = "v2"

// record draws a log, judges it and writes it to a new file.
func record(t *testing.T, name string) {
	t.Helper()
	replay, err := raftstore.NewReplay(Rules())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata/log", 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join("testdata", "log", name+".jsonl"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	draw := newDrawing(replay.View(), name)
	const entries = 1000
	for n := range entries {
		var txns []raftstore.Txn
		for range 1 + draw.IntN(2) {
			txns = append(txns, draw.txn())
		}
		line := recordedEntry{Entry: replay.EncodeEntry(txns...)}
		verdicts, err := replay.Judge(line.Entry)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range verdicts {
			recorded := recordedVerdict{Verdict: verdictText(v), Reason: v.Reason}
			for _, call := range txns[i].Constraints {
				recorded.Rules = append(recorded.Rules, ruleText(call.Name, call.Version))
			}
			line.Verdicts = append(line.Verdicts, recorded)
		}
		if n == entries-1 {
			line.Digest = replay.Digest()
		}
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(f, "%s\n", text); err != nil {
			t.Fatal(err)
		}
	}
}
