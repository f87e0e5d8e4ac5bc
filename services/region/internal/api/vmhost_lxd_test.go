package api_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/vmhost-project/vmhost/pkg/pki"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
)

// fingerprint is that of an LXD server's certificate.
//
//nolint:gochecknoglobals // a constant that Go cannot write as one
var fingerprint = strings.Repeat("0a", sha256.Size)

const lxdType = vmhostv1.VmHostType_VM_HOST_TYPE_LXD

func trustToken(t *testing.T, fingerprint string, until time.Time) string {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"client_name": "vmhost", "fingerprint": fingerprint, "addresses": []string{"192.0.2.1:8443"}, "secret": "s3cret", "expires_at": until,
	})
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func lxd(c *vmhostv1.LxdCredential) *vmhostv1.Credential {
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Lxd{Lxd: c}}
}

// storedCredential is what is kept of a host's credential.
func (f *fixture) storedCredential(id string) *vmhostv1.Credential {
	f.t.Helper()
	rec, ok := store.Secrets.Get(f.store.Cached(), "vmHosts", id)
	if !ok {
		return nil
	}
	plain, err := f.secrets.Decrypt(store.Secrets.Key("vmHosts", id), rec.Value.GetCiphertext())
	if err != nil {
		f.t.Fatal(err)
	}
	c := &vmhostv1.Credential{}
	if err := proto.Unmarshal(plain, c); err != nil {
		f.t.Fatal(err)
	}
	return c
}

func TestAnLXDHostIsAddedByATrustTokenAlone(t *testing.T) {
	f := start(t)
	token := trustToken(t, fingerprint, time.Now().Add(time.Hour))
	h, err := f.hosts.CreateVmHost(f.admin(), &vmhostv1.CreateVmHostRequest{VmHostId: "l1", VmHost: &vmhostv1.VmHost{
		Type: lxdType, Address: "192.0.2.1", Credential: lxd(&vmhostv1.LxdCredential{TrustToken: token}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if h.GetAddress() != "https://192.0.2.1:8443" || h.GetHostKey() != "SHA256:"+fingerprint || h.GetProject() != "default" || h.GetCredentialKind() != "lxd" {
		t.Errorf("host %v", h)
	}
	info := h.GetCredentialInfo()
	if info.GetCertificatePem() == "" || info.GetCertificateFingerprint() == "" || !info.GetTrustSecretStored() || time.Until(info.GetCertificateExpireTime().AsTime()) < 24*time.Hour {
		t.Errorf("credential info %v", info)
	}
	if strings.Contains(h.String(), token) || strings.Contains(h.String(), "PRIVATE KEY") {
		t.Error("the answer shows a secret (P8)")
	}
	kept := f.storedCredential("l1").GetLxd()
	if kept.GetTrustToken() != token || kept.GetCertificatePem() != info.GetCertificatePem() || kept.GetPrivateKeyPem() == "" {
		t.Error("what is kept is not the generated certificate with its key and the token")
	}
	rec, _ := store.VmHosts.Get(f.store.Cached(), "l1")
	if !rec.Value.GetForgetTrustSecret() {
		t.Error("the token is not noted to be forgotten")
	}
}

func TestAnLXDCredentialThatCannotWorkIsRefusedByItsField(t *testing.T) {
	f := start(t)
	certificate, key, err := pki.NewClientCertificate("mine", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := pki.NewClientCertificate("other", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	expired, expiredKey, err := pki.NewClientCertificate("old", -time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	good := trustToken(t, fingerprint, time.Now().Add(time.Hour))
	hostKey := "SHA256:" + fingerprint
	for name, test := range map[string]struct {
		field string
		host  *vmhostv1.VmHost
	}{
		"no token at all": {"vm_host.credential.lxd.trust_token", &vmhostv1.VmHost{Credential: lxd(&vmhostv1.LxdCredential{TrustToken: "x"})}},
		"half a token":    {"vm_host.credential.lxd.trust_token", &vmhostv1.VmHost{Credential: lxd(&vmhostv1.LxdCredential{TrustToken: good[:40]})}},
		"expired token": {
			"vm_host.credential.lxd.trust_token",
			&vmhostv1.VmHost{Credential: lxd(&vmhostv1.LxdCredential{TrustToken: trustToken(t, fingerprint, time.Now().Add(-time.Hour))})},
		},
		"token of another server": {
			"vm_host.host_key",
			&vmhostv1.VmHost{HostKey: "SHA256:" + strings.Repeat("ff", sha256.Size), Credential: lxd(&vmhostv1.LxdCredential{TrustToken: good})},
		},
		"token and password": {
			"vm_host.credential.lxd.trust_password",
			&vmhostv1.VmHost{HostKey: hostKey, Credential: lxd(&vmhostv1.LxdCredential{TrustToken: good, TrustPassword: "p"})},
		},
		"certificate without key": {
			"vm_host.credential.lxd.private_key_pem", &vmhostv1.VmHost{HostKey: hostKey, Credential: lxd(&vmhostv1.LxdCredential{CertificatePem: string(certificate)})},
		},
		"key without certificate": {
			"vm_host.credential.lxd.certificate_pem", &vmhostv1.VmHost{HostKey: hostKey, Credential: lxd(&vmhostv1.LxdCredential{PrivateKeyPem: string(key)})},
		},
		"key of another certificate": {
			"vm_host.credential.lxd",
			&vmhostv1.VmHost{HostKey: hostKey, Credential: lxd(&vmhostv1.LxdCredential{CertificatePem: string(other), PrivateKeyPem: string(key)})},
		},
		"expired certificate": {
			"vm_host.credential.lxd.certificate_pem",
			&vmhostv1.VmHost{HostKey: hostKey, Credential: lxd(&vmhostv1.LxdCredential{CertificatePem: string(expired), PrivateKeyPem: string(expiredKey)})},
		},
		"password of ssh":         {"vm_host.credential", &vmhostv1.VmHost{HostKey: hostKey, Credential: password("p")}},
		"host key of ssh":         {"vm_host.host_key", &vmhostv1.VmHost{HostKey: "ssh-ed25519 AAAA"}},
		"host key in upper case":  {"vm_host.host_key", &vmhostv1.VmHost{HostKey: "SHA256:" + strings.ToUpper(fingerprint)}},
		"credential for a socket": {"vm_host.credential", &vmhostv1.VmHost{Address: "lxd+unix://l1", Credential: lxd(&vmhostv1.LxdCredential{TrustToken: good})}},
		"project of libvirt":      {"vm_host.project", &vmhostv1.VmHost{Type: vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, Address: "qemu:///system", Project: "p"}},
		"bare address, no type":   {"vm_host.address", &vmhostv1.VmHost{Type: vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, Address: "192.0.2.1"}},
		"network called twice": {
			"vm_host.network_labels[1].network",
			&vmhostv1.VmHost{HostKey: hostKey, NetworkLabels: []*vmhostv1.NetworkLabels{{Network: "br0", Space: "a"}, {Network: "br0", Space: "b"}}},
		},
		"pool called twice": {
			"vm_host.storage_pool_labels[1].storage_pool",
			&vmhostv1.VmHost{HostKey: hostKey, StoragePoolLabels: []*vmhostv1.StoragePoolLabels{{StoragePool: "p"}, {StoragePool: "p"}}},
		},
		"pool shared twice": {
			"vm_host.shared_storage_pools[1].storage_pool",
			&vmhostv1.VmHost{HostKey: hostKey, SharedStoragePools: []*vmhostv1.SharedStoragePool{{StoragePool: "p", Identity: "a"}, {StoragePool: "p"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.host.GetAddress() == "" {
				test.host.Address = "192.0.2.1"
			}
			if test.host.GetType() == vmhostv1.VmHostType_VM_HOST_TYPE_UNSPECIFIED {
				test.host.Type = lxdType
			}
			_, err := f.hosts.CreateVmHost(f.admin(), &vmhostv1.CreateVmHostRequest{VmHostId: "l1", VmHost: test.host})
			wantReason(t, name, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, test.field)
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error shows a secret (P8): %v", err)
			}
		})
	}
	_, err = f.hosts.CreateVmHost(f.admin(), &vmhostv1.CreateVmHostRequest{VmHostId: "l1", VmHost: &vmhostv1.VmHost{Type: lxdType, Address: "192.0.2.1"}})
	wantReason(t, "no key", err, codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_KEY_REQUIRED, "vm_host.host_key")
}

func TestOneServerIsOneHostPerProject(t *testing.T) {
	f := start(t)
	create := func(id, project string) error {
		_, err := f.hosts.CreateVmHost(f.admin(), &vmhostv1.CreateVmHostRequest{VmHostId: id, VmHost: &vmhostv1.VmHost{
			Type: lxdType, Address: "192.0.2.1", Project: project, HostKey: "SHA256:" + fingerprint,
		}})
		return err
	}
	if err := create("l1", ""); err != nil {
		t.Fatal(err)
	}
	if err := create("l2", "lab"); err != nil {
		t.Errorf("another project of the server: %v", err)
	}
	wantReason(t, "same project", create("l3", "default"), codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS, "vm_host.address")
}

func TestANewTrustTokenIsForTheCertificateThatTheHostHas(t *testing.T) {
	f := start(t)
	h, err := f.hosts.CreateVmHost(f.admin(), &vmhostv1.CreateVmHostRequest{VmHostId: "l1", VmHost: &vmhostv1.VmHost{
		Type: lxdType, Address: "192.0.2.1", HostKey: "SHA256:" + fingerprint,
	}})
	if err != nil {
		t.Fatal(err)
	}
	before, _ := store.VmHosts.Get(f.store.Cached(), "l1")
	token := trustToken(t, fingerprint, time.Now().Add(time.Hour))
	got, err := f.hosts.UpdateVmHost(f.admin(), &vmhostv1.UpdateVmHostRequest{
		VmHost:     &vmhostv1.VmHost{Name: h.GetName(), Credential: lxd(&vmhostv1.LxdCredential{TrustToken: token})},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"credential"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetCredentialInfo().GetCertificatePem() != h.GetCredentialInfo().GetCertificatePem() || !got.GetCredentialInfo().GetTrustSecretStored() {
		t.Error("the certificate is another one, or the token was not kept")
	}
	after, _ := store.VmHosts.Get(f.store.Cached(), "l1")
	if after.Value.GetConnectionVersion() == before.Value.GetConnectionVersion() || !after.Value.GetForgetTrustSecret() {
		t.Error("the rack is not told to connect anew, or the token is kept for ever")
	}
}

func TestConfigurationOfAHostIsChangedByItsFields(t *testing.T) {
	f := start(t)
	if _, err := f.hosts.CreateVmHost(f.admin(), &vmhostv1.CreateVmHostRequest{VmHostId: "l1", VmHost: &vmhostv1.VmHost{
		Type: lxdType, Address: "192.0.2.1", HostKey: "SHA256:" + fingerprint, ReservedCores: 1,
	}}); err != nil {
		t.Fatal(err)
	}
	got, err := f.hosts.UpdateVmHost(f.admin(), &vmhostv1.UpdateVmHostRequest{
		VmHost: &vmhostv1.VmHost{
			Name: "vmHosts/l1", ReservedCores: 2, ReservedMemoryMib: 4096,
			NetworkLabels:     []*vmhostv1.NetworkLabels{{Network: "lxdbr0", Space: "lab", Tags: []string{"fast"}}},
			StoragePoolLabels: []*vmhostv1.StoragePoolLabels{{StoragePool: "default", Tags: []string{"ssd"}}},
		},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"reserved_memory_mib", "network_labels", "storage_pool_labels"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetReservedCores() != 1 || got.GetReservedMemoryMib() != 4096 || got.GetNetworkLabels()[0].GetSpace() != "lab" || got.GetStoragePoolLabels()[0].GetTags()[0] != "ssd" {
		t.Errorf("host %v", got)
	}
	_, err = f.hosts.UpdateVmHost(f.admin(), &vmhostv1.UpdateVmHostRequest{
		VmHost: &vmhostv1.VmHost{Name: "vmHosts/l1", Project: "lab"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"project"}},
	})
	wantReason(t, "project", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "update_mask")
}

// seenInCluster records that a host was seen to be a member of a cluster.
func (f *fixture) seenInCluster(id, member string, members ...string) {
	f.t.Helper()
	rec, _ := store.VmHosts.Get(f.store.Cached(), id)
	o := &vmhostv1.VmHostObservation{ClusterMember: member}
	for i, m := range members {
		o.ClusterMembers = append(o.ClusterMembers, &vmhostv1.ClusterMember{Name: m, Address: fmt.Sprintf("https://192.0.2.%d:8443", i+1), Online: true})
	}
	tx := store.NewTxn()
	store.Put(tx, store.Observed, &storev1.StoredVmHostObservation{
		VmHostUid: rec.Value.GetResource().GetUid(), State: vmhostv1.VmHostState_VM_HOST_STATE_READY, Observation: o,
	}, id)
	if _, err := f.store.Commit(f.t.Context(), tx); err != nil {
		f.t.Fatal(err)
	}
}

func TestEveryMemberOfAClusterBecomesAHost(t *testing.T) {
	f := start(t)
	if _, err := f.hosts.CreateVmHost(f.admin(), &vmhostv1.CreateVmHostRequest{VmHostId: "lab", VmHost: &vmhostv1.VmHost{
		Type: lxdType, Address: "192.0.2.1", HostKey: "SHA256:" + fingerprint, Tags: []string{"ssd"}, ReservedMemoryMib: 512,
		Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(4)},
	}}); err != nil {
		t.Fatal(err)
	}
	_, err := f.hosts.AddClusterMembers(f.admin(), &vmhostv1.AddClusterMembersRequest{Name: "vmHosts/lab"})
	wantReason(t, "no cluster", err, codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE)
	f.seenInCluster("lab", "m1", "m1", "M2.example", "m3")
	got, err := f.hosts.AddClusterMembers(f.admin(), &vmhostv1.AddClusterMembersRequest{Name: "vmHosts/lab"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(got.GetAdded(), " ") != "vmHosts/lab-m2-example vmHosts/lab-m3" || len(got.GetVmHosts()) != 3 {
		t.Fatalf("added %v of %d", got.GetAdded(), len(got.GetVmHosts()))
	}
	for i, want := range []struct{ member, address string }{{"m1", "https://192.0.2.1:8443"}, {"M2.example", "https://192.0.2.2:8443"}, {"m3", "https://192.0.2.3:8443"}} {
		h, err := f.hosts.GetVmHost(f.admin(), &vmhostv1.GetVmHostRequest{Name: got.GetVmHosts()[i].GetName()})
		if err != nil {
			t.Fatal(err)
		}
		if h.GetClusterGroup() != "lab" || h.GetClusterMember() != want.member || h.GetAddress() != want.address ||
			h.GetReservedMemoryMib() != 512 || h.GetOvercommit().GetCores() != 4 || h.GetTags()[0] != "ssd" || h.GetHostKey() != "SHA256:"+fingerprint {
			t.Errorf("member %d: %v", i, h)
		}
	}
	if first, second := f.storedCredential("lab"), f.storedCredential("lab-m3"); !proto.Equal(first, second) {
		t.Error("a member has another certificate than the first, which the cluster trusts")
	}
	again, err := f.hosts.AddClusterMembers(f.admin(), &vmhostv1.AddClusterMembersRequest{Name: "vmHosts/lab"})
	if err != nil || len(again.GetAdded()) != 0 || len(again.GetVmHosts()) != 3 {
		t.Errorf("again: added %v of %d, %v", again.GetAdded(), len(again.GetVmHosts()), err)
	}
}
