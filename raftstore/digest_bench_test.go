package raftstore

import (
	"fmt"
	"testing"
)

// BenchmarkDigest measures what the digest adds to the apply of an entry, of which
// BenchmarkApply is the whole.
func BenchmarkDigest(b *testing.B) {
	m, entry := benchEntry(b)
	first := entry(0)
	outcomes, changes, err := m.apply(first)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		next := m.digest.extend(first)
		for i := range outcomes {
			next.addVerdict(&outcomes[i])
		}
		for i := range changes {
			next.addChange(&changes[i])
		}
		m.digest = next.sum()
	}
}

// BenchmarkApply measures the apply of an entry of one txn, which puts an object of
// 4 KiB and two small records among 20,000.
func BenchmarkApply(b *testing.B) {
	m, entry := benchEntry(b)
	n := 0
	for b.Loop() {
		if _, _, err := m.apply(entry(n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// benchEntry returns a machine with 20,000 records, and entries for it.
func benchEntry(b *testing.B) (*machine, func(n int) []byte) {
	m := newMachine(nil, KnownLevels())
	value := make([]byte, 4096)
	txn := func(n int) Txn {
		return Txn{RequestID: fmt.Sprint("request-of-a-usual-length-", n), Ops: []Op{
			{Key: fmt.Sprint("/registry/virtualmachineinstances/ns/", n%20000), Value: value},
			{Key: fmt.Sprint("/claims/host/host1/", n%20000), Value: value[:100]},
			{Key: fmt.Sprint("/claims/epoch/ns/", n%20000), Value: value[:60]},
		}}
	}
	for n := range 20000 {
		if _, _, err := applyTxns(m, txn(-n)); err != nil {
			b.Fatal(err)
		}
	}
	return m, func(n int) []byte {
		t := txn(n)
		return encodeEntry(BaseLevel, [][]byte{encodeTxn(&t, m.requests.seq)})
	}
}

// BenchmarkStateHash measures the hash of a state of 100,000 records of 1 KiB, with as many
// remembered requests as there can be.
func BenchmarkStateHash(b *testing.B) {
	m := newMachine(nil, KnownLevels())
	value := make([]byte, 1024)
	for n := range 100_000 {
		txn := Txn{RequestID: fmt.Sprint("request-of-a-usual-length-", n), Ops: []Op{{Key: fmt.Sprint("/registry/virtualmachineinstances/ns/", n), Value: value}}}
		if _, _, err := applyTxns(m, txn); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("capture", func(b *testing.B) {
		for b.Loop() {
			m.snapshot(1)
		}
	})
	b.Run("hash", func(b *testing.B) {
		captured := m.snapshot(1)
		b.SetBytes(m.bytes)
		for b.Loop() {
			captured.hash()
		}
	})
}
