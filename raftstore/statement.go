package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A statement is what a replica says about its state at a log index, signed by its host.
// The statements of a majority of the voters are believed wherever they come from. So a
// replica that gets its entries from another one, which may lie, can tell whether they are
// the group's.

// A Signer signs and verifies statements with the identities of the mesh's hosts.
// Signatures may contain whatever is needed to verify them, such as a certificate.
type Signer interface {
	// Sign signs a message as this host.
	Sign(message []byte) (signature []byte, err error)
	// Verify returns the NodeID of the host that signed a message. It fails if the host is
	// no member of the mesh any more.
	Verify(message, signature []byte) (node string, err error)
}

// Bounds of what others say.
const (
	maxStatedVoters   = 32
	maxStatementBytes = 16 << 10
	maxSignatureBytes = 16 << 10
	maxBundle         = 32 // statements
)

// statementFormat is the version of the encoding. A later version may append fields, which
// this one skips, and keeps the number as long as an earlier one understands the rest.
const statementFormat = 1

// statementDomain begins what is signed, so that a signature is never taken for one of
// another kind of message.
const statementDomain = "virtmesh statement\x00"

// statement is what a replica says.
type statement struct {
	group  incarnation
	index  uint64
	digest digest
	// checkpoint is the newest one that the replica has hashed, zero if there is none.
	checkpoint hashedCheckpoint
	// voters are the node IDs of the voters at the index, sorted; empty if the replica does
	// not know them.
	voters []string
}

// signedStatement is a statement as it travels. The signature is over its bytes.
type signedStatement struct {
	statement
	bytes     []byte
	signature []byte // empty if the replica has no Signer
}

func (s *statement) encode() []byte {
	b := append(make([]byte, 0, 256), statementFormat, digestVersion)
	b = append(b, s.group[:]...)
	b = binary.LittleEndian.AppendUint64(b, s.index)
	b = append(b, s.digest[:]...)
	b = binary.LittleEndian.AppendUint64(b, s.checkpoint.index)
	b = append(b, s.checkpoint.hash[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s.voters)))
	for _, v := range s.voters {
		b = appendString(b, v)
	}
	return b
}

// fixed reads exactly len(to) bytes.
func (r *reader) fixed(to []byte) {
	if len(r.b) < len(to) {
		r.fail()
		return
	}
	copy(to, r.b)
	r.b = r.b[len(to):]
}

// decodeStatement reads what encode wrote.
func decodeStatement(b []byte) (statement, error) {
	if len(b) > maxStatementBytes {
		return statement{}, fmt.Errorf("%w: statement of %d bytes", ErrInvalidTxn, len(b))
	}
	r := &reader{b: b}
	format, version := r.byte(), r.byte()
	if r.err == nil && (format != statementFormat || version != digestVersion) {
		return statement{}, fmt.Errorf("%w: statement of format %d about digests of version %d, this replica knows format %d and version %d",
			ErrInvalidTxn, format, version, statementFormat, digestVersion)
	}
	var s statement
	r.fixed(s.group[:])
	s.index = r.uint64()
	r.fixed(s.digest[:])
	s.checkpoint.index = r.uint64()
	r.fixed(s.checkpoint.hash[:])
	n := r.uint64()
	if n > maxStatedVoters {
		r.fail()
		n = 0
	}
	for range n {
		s.voters = append(s.voters, r.string())
	}
	if r.err != nil {
		return statement{}, fmt.Errorf("%w: statement: %w", ErrInvalidTxn, r.err)
	}
	if !slices.IsSorted(s.voters) || len(slices.Compact(slices.Clone(s.voters))) != len(s.voters) {
		return statement{}, fmt.Errorf("%w: statement: its voters are not in order", ErrInvalidTxn)
	}
	return s, nil
}

// sign makes a statement of this host. Without a signer it stays unsigned, which is enough
// to compare digests with a replica that was asked directly.
func (s statement) sign(with Signer) (signedStatement, error) {
	signed := signedStatement{statement: s, bytes: s.encode()}
	if with == nil {
		return signed, nil
	}
	var err error
	if signed.signature, err = with.Sign(append([]byte(statementDomain), signed.bytes...)); err != nil {
		return signed, fmt.Errorf("sign statement: %w", err)
	}
	return signed, nil
}

// signer returns the node that signed the statement.
func (s *signedStatement) signer(with Signer) (string, error) {
	if with == nil {
		return "", errors.New("this replica has no Signer")
	}
	return with.Verify(append([]byte(statementDomain), s.bytes...), s.signature)
}

func (s *signedStatement) append(b []byte) []byte {
	return appendBytes(appendBytes(b, s.bytes), s.signature)
}

func (r *reader) signedStatement() (signedStatement, error) {
	signed := signedStatement{bytes: r.bytes(), signature: r.bytes()}
	if r.err != nil || len(signed.signature) > maxSignatureBytes {
		return signed, fmt.Errorf("%w: signed statement: %w", ErrInvalidTxn, errDecode)
	}
	var err error
	signed.statement, err = decodeStatement(signed.bytes)
	return signed, err
}

// decodeSigned reads a single signed statement.
func decodeSigned(b []byte) (signedStatement, error) {
	r := &reader{b: b}
	signed, err := r.signedStatement()
	if err == nil && len(r.b) != 0 {
		err = fmt.Errorf("%w: signed statement: %w", ErrInvalidTxn, errDecode)
	}
	return signed, err
}

// encodeBundle encodes statements that belong together.
func encodeBundle(list []signedStatement) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(list)))
	for i := range list {
		b = list[i].append(b)
	}
	return b
}

// decodeBundle reads what encodeBundle wrote. A statement of a format that this version
// does not know is left out.
func decodeBundle(b []byte) ([]signedStatement, error) {
	r := &reader{b: b}
	n := r.uint64()
	if r.err != nil || n > maxBundle {
		return nil, fmt.Errorf("%w: bundle of statements: %w", ErrInvalidTxn, errDecode)
	}
	var list []signedStatement
	for range n {
		signed, err := r.signedStatement()
		if r.err != nil {
			return nil, err
		}
		if err == nil {
			list = append(list, signed)
		}
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("%w: bundle of statements: %w", ErrInvalidTxn, errDecode)
	}
	return list, nil
}

// agreement is what a majority of the voters says.
type agreement struct {
	index  uint64
	digest digest
	voters []string
	// checkpoint is what a majority says of the newest checkpoint on which it agrees, zero
	// if it agrees on none.
	checkpoint hashedCheckpoint
	signers    []string
	bundle     []signedStatement // of the signers
}

// newer reports whether v says more than o.
func (v *agreement) newer(o *agreement) bool {
	return v.index > o.index || v.index == o.index && v.checkpoint.index > o.checkpoint.index
}

// errNoMajority: too few voters have signed the same.
var errNoMajority = errors.New("no majority of the voters has signed the same")

// tally finds what a majority of voters agrees on, among statements on one log index of one
// group. A set of voters that differs from the given one is believed only if a majority of
// both has signed: so the voters can be replaced step by step, and nobody can name voters
// of his own.
func tally(list []signedStatement, group incarnation, voters []string, with Signer) (agreement, error) {
	var found agreement
	by := map[string]signedStatement{} // the first valid statement of each node
	var invalid error
	for _, s := range list {
		if s.group != group {
			invalid = fmt.Errorf("it is about group %s, not %s", s.group, group)
			continue
		}
		node, err := s.signer(with)
		if err != nil {
			invalid = err
			continue
		}
		if _, twice := by[node]; !twice {
			by[node] = s
		}
	}
	for _, s := range by {
		var same []string
		for other, o := range by {
			if o.index == s.index && o.digest == s.digest && slices.Equal(o.voters, s.voters) {
				same = append(same, other)
			}
		}
		if s.index >= found.index && isMajority(same, voters) && isMajority(same, s.voters) {
			slices.Sort(same)
			found = agreement{index: s.index, digest: s.digest, voters: s.voters, signers: same}
		}
	}
	if found.signers == nil {
		return found, errors.Join(fmt.Errorf("%w: %d of %d statements are valid", errNoMajority, len(by), len(list)), invalid)
	}
	for _, node := range found.signers {
		found.bundle = append(found.bundle, by[node])
	}
	found.checkpoint = agreedCheckpoint(by, found.signers, voters, found.voters)
	return found, nil
}

// agreedCheckpoint returns the newest checkpoint of which the signers, a majority of the
// voters, have found the same hash.
func agreedCheckpoint(by map[string]signedStatement, signers []string, sets ...[]string) hashedCheckpoint {
	var newest hashedCheckpoint
	for _, node := range signers {
		c := by[node].checkpoint
		var same []string
		for _, other := range signers {
			if by[other].checkpoint == c {
				same = append(same, other)
			}
		}
		agreed := c.index > newest.index
		for _, voters := range sets {
			agreed = agreed && isMajority(same, voters)
		}
		if agreed {
			newest = c
		}
	}
	return newest
}

// isMajority reports whether more than half of the voters are among nodes.
func isMajority(nodes, voters []string) bool {
	n := 0
	for _, v := range voters {
		if slices.Contains(nodes, v) {
			n++
		}
	}
	return 2*n > len(voters)
}
