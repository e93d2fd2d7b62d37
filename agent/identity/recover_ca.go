package identity

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"

	"virtmesh/raftstore"
)

// RecoverCA decides with which CA a mesh goes on that is recovered on this host from a state, of
// which stored is the record at KeyCA. It is the newest of the CAs whose key is at hand: those
// that this host trusts, and the one that signs by the state. So a backup from before a rotation
// does not bring back the CA that was replaced, whose key others may have, and the other hosts
// still know who speaks to them. It returns the change of the record, if one is needed, lets
// this host trust the CA, with a certificate of it, and returns ErrNoCAKey if there is no key.
func (i *Identity) RecoverCA(stored raftstore.Record) ([]raftstore.Op, error) {
	var rec CARecord
	if err := json.Unmarshal(stored.Value, &rec); err != nil {
		return nil, fmt.Errorf("read %s: %w", KeyCA, err)
	}
	signing, err := ParseCertificates(rec.Certificate)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", KeyCA, err)
	}
	bundle, generation := i.Trust()
	trusted, err := ParseCertificates(bundle)
	if err != nil {
		return nil, err
	}
	known, behind := slices.ContainsFunc(trusted, signing[0].Equal), rec.Generation < generation
	if known && !behind && (len(rec.Key) > 0 || i.HoldsCAKey(PinOf(signing[0]))) {
		return nil, nil
	}
	chosen := i.newestHeld(append(slices.Clone(trusted), signing[0]), rec)
	if chosen == nil {
		return nil, ErrNoCAKey
	}
	if _, err := ParseCA(EncodeCertificates(chosen), rec.Key); err == nil {
		if err := i.KeepCAKey(rec.Key); err != nil {
			return nil, err
		}
	}
	if !known && chosen.Equal(signing[0]) {
		// What hosts trust never has an older version again.
		rec.Generation = max(rec.Generation, generation+1)
		if err := i.trustAgain(rec); err != nil || !behind {
			return nil, err
		}
		op, err := rewriteOp(stored, rec)
		return []raftstore.Op{op}, err
	}
	others := slices.DeleteFunc(trusted, chosen.Equal)
	rec.Certificate, rec.Key = EncodeCertificates(chosen), nil
	rec.Bundle = EncodeCertificates(append([]*x509.Certificate{chosen}, others...)...)
	rec.Next, rec.Successor, rec.Stage = nil, nil, ""
	rec.Generation = max(rec.Generation, generation) + 1
	op, err := rewriteOp(stored, rec)
	return []raftstore.Op{op}, err
}

// trustAgain lets this host trust the CAs of a record that it does not trust now, and gives it a
// certificate of the one that signs.
func (i *Identity) trustAgain(rec CARecord) error {
	if _, err := i.KeepTrust(rec.Bundle, rec.Generation); err != nil {
		return err
	}
	csr, err := i.NextCSR()
	if err != nil {
		return err
	}
	names := NodeSANs(i.info.MeshAddress, i.info.SANs)
	issued, err := SelfIssuer(i, names, DefaultNodeLifetime).IssueNode(context.Background(), csr)
	if err != nil {
		return err
	}
	return i.Install(i.key(), issued)
}

// newestHeld returns the newest of some CAs whose key this host holds, or that is in the record;
// nil if there is none.
func (i *Identity) newestHeld(cas []*x509.Certificate, rec CARecord) *x509.Certificate {
	var newest *x509.Certificate
	for _, ca := range cas {
		_, inState := ParseCA(EncodeCertificates(ca), rec.Key)
		if !i.HoldsCAKey(PinOf(ca)) && inState != nil {
			continue
		}
		if newest == nil || ca.NotBefore.After(newest.NotBefore) {
			newest = ca
		}
	}
	return newest
}
