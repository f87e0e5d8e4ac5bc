package api_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	rackv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/rack/v1"
	storev1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/store/v1"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/region/internal/store"
	"github.com/vmhost-project/vmhost/services/region/internal/store/storetest"
)

// forgetBatch is how many machines one transaction forgets, so that tests span
// several.
const forgetBatch = 25

// sshKeys are a new private key in OpenSSH format and its public line.
func sshKeys(t *testing.T) (private, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line)))
}

func sshCredential(key string) *vmhostv1.Credential {
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_SshPrivateKey{SshPrivateKey: key}}
}

func password(p string) *vmhostv1.Credential {
	return &vmhostv1.Credential{Kind: &vmhostv1.Credential_Password{Password: p}}
}

func TestAHostIsAnsweredAsItWasAskedForWithDefaults(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	private, public := sshKeys(t)
	h, err := f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h1", VmHost: &vmhostv1.VmHost{
		Address: "qemu+ssh://root@H1.example/system", HostKey: public, Credential: sshCredential(private), Tags: []string{"ssd"},
		Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(2)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := &vmhostv1.VmHost{
		Name: "vmHosts/h1", Address: "qemu+ssh://root@h1.example:22/system", HostKey: public, Tags: []string{"ssd"}, CredentialKind: "ssh-key",
		CredentialInfo: &vmhostv1.CredentialInfo{SshPublicKey: public},
		Type:           vmhostv1.VmHostType_VM_HOST_TYPE_LIBVIRT, Zone: "zones/default", ResourcePool: "resourcePools/default",
		Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(2), Memory: proto.Float64(1), Storage: proto.Float64(1)},
		State:      vmhostv1.VmHostState_VM_HOST_STATE_NO_RACK,
	}
	if diff := cmp.Diff(want, h, protocmp.Transform(), protocmp.IgnoreFields(h, "uid", "etag", "create_time", "update_time", "conditions", "usage")); diff != "" {
		t.Error(diff)
	}
	if len(h.GetConditions()) != 1 || h.GetConditions()[0].GetReason() != "NO_RACK" || h.GetConditions()[0].GetHint() == "" {
		t.Errorf("conditions %v", h.GetConditions())
	}
	got, err := f.hosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h, got, protocmp.Transform()); diff != "" {
		t.Errorf("get differs from create: %s", diff)
	}
	f.ready(h)
	got, err = f.hosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetState() != vmhostv1.VmHostState_VM_HOST_STATE_READY || got.GetAssignedRack() != "racks/r1" || got.GetUsage().GetCores().GetLimit() != 16 || len(got.GetConditions()) != 0 {
		t.Errorf("when it is ready: %v", got)
	}
}

func TestAHostThatCannotBeIsRefusedWithTheField(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	private, public := sshKeys(t)
	locked := lockedKey(t)
	long := strings.Repeat("x", 600)
	const sshAddress = "qemu+ssh://root@h1/system"
	field := func(name string) (codes.Code, vmhostv1.ErrorReason, string) {
		return codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, name
	}
	type want func() (codes.Code, vmhostv1.ErrorReason, string)
	is := func(name string) want {
		return func() (codes.Code, vmhostv1.ErrorReason, string) { return field(name) }
	}
	missing := func(name string) want {
		return func() (codes.Code, vmhostv1.ErrorReason, string) {
			return codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND, name
		}
	}
	tag := make([]string, 65)
	for i := range tag {
		tag[i] = "t" + uuid.NewString()[:6]
	}
	for name, tc := range map[string]struct {
		id   string
		host *vmhostv1.VmHost
		want want
	}{
		"no id":                {"", &vmhostv1.VmHost{Address: "fake://a"}, is("vm_host_id")},
		"a long id":            {strings.Repeat("a", 64), &vmhostv1.VmHost{Address: "fake://a"}, is("vm_host_id")},
		"capitals in the id":   {"H1", &vmhostv1.VmHost{Address: "fake://a"}, is("vm_host_id")},
		"a slash in the id":    {"a/b", &vmhostv1.VmHost{Address: "fake://a"}, is("vm_host_id")},
		"no host":              {"h", nil, is("vm_host")},
		"another name":         {"h", &vmhostv1.VmHost{Name: "vmHosts/x", Address: "fake://a"}, is("vm_host.name")},
		"no address":           {"h", &vmhostv1.VmHost{}, is("vm_host.address")},
		"a long address":       {"h", &vmhostv1.VmHost{Address: "fake://" + long}, is("vm_host.address")},
		"a query":              {"h", &vmhostv1.VmHost{Address: "qemu+ssh://root@h1/system?no_verify=1"}, is("vm_host.address")},
		"an unknown scheme":    {"h", &vmhostv1.VmHost{Address: "vmware://h1/system"}, is("vm_host.address")},
		"another type":         {"h", &vmhostv1.VmHost{Address: "fake://a", Type: vmhostv1.VmHostType_VM_HOST_TYPE_LXD}, is("vm_host.type")},
		"an undefined type":    {"h", &vmhostv1.VmHost{Address: "fake://a", Type: 99}, is("vm_host.type")},
		"ratio below 0":        {"h", &vmhostv1.VmHost{Address: "fake://a", Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(-0.1)}}, is("vm_host.overcommit.cores")},
		"ratio above 10":       {"h", &vmhostv1.VmHost{Address: "fake://a", Overcommit: &vmhostv1.OvercommitRatios{Memory: proto.Float64(10.1)}}, is("vm_host.overcommit.memory")},
		"ratio is not number":  {"h", &vmhostv1.VmHost{Address: "fake://a", Overcommit: &vmhostv1.OvercommitRatios{Storage: proto.Float64(nan())}}, is("vm_host.overcommit.storage")},
		"a bad tag":            {"h", &vmhostv1.VmHost{Address: "fake://a", Tags: []string{"Ä"}}, is("vm_host.tags[0]")},
		"the same tag twice":   {"h", &vmhostv1.VmHost{Address: "fake://a", Tags: []string{"a", "a"}}, is("vm_host.tags")},
		"too many tags":        {"h", &vmhostv1.VmHost{Address: "fake://a", Tags: tag}, is("vm_host.tags")},
		"a long display name":  {"h", &vmhostv1.VmHost{Address: "fake://a", DisplayName: long}, is("vm_host.display_name")},
		"no zone's name":       {"h", &vmhostv1.VmHost{Address: "fake://a", Zone: "a"}, is("vm_host.zone")},
		"an unknown zone":      {"h", &vmhostv1.VmHost{Address: "fake://a", Zone: "zones/none"}, missing("vm_host.zone")},
		"an unknown pool":      {"h", &vmhostv1.VmHost{Address: "fake://a", ResourcePool: "resourcePools/none"}, missing("vm_host.resource_pool")},
		"an unknown rack":      {"h", &vmhostv1.VmHost{Address: "fake://a", Rack: "racks/none"}, missing("vm_host.rack")},
		"no rack's name":       {"h", &vmhostv1.VmHost{Address: "fake://a", Rack: "racks/a/b"}, is("vm_host.rack")},
		"a key of no form":     {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: "hello", Credential: sshCredential(private)}, is("vm_host.host_key")},
		"two keys":             {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: public + "\n" + public, Credential: sshCredential(private)}, is("vm_host.host_key")},
		"a key with options":   {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: `command="x" ` + public, Credential: sshCredential(private)}, is("vm_host.host_key")},
		"a short fingerprint":  {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: "SHA256:AAAA", Credential: sshCredential(private)}, is("vm_host.host_key")},
		"a key for a socket":   {"h", &vmhostv1.VmHost{Address: "qemu:///system", HostKey: public}, is("vm_host.host_key")},
		"an SSH key for TLS":   {"h", &vmhostv1.VmHost{Address: "qemu+tls://h1/system", HostKey: public}, is("vm_host.host_key")},
		"no credential":        {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: public}, is("vm_host.credential")},
		"a locked key":         {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: public, Credential: sshCredential(locked)}, is("vm_host.credential.ssh_private_key")},
		"a public key":         {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: public, Credential: sshCredential(public)}, is("vm_host.credential.ssh_private_key")},
		"a long password":      {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: public, Credential: password(strings.Repeat("x", 2000))}, is("vm_host.credential.password")},
		"an empty password":    {"h", &vmhostv1.VmHost{Address: sshAddress, HostKey: public, Credential: password("")}, is("vm_host.credential.password")},
		"a socket's password":  {"h", &vmhostv1.VmHost{Address: "qemu:///system", Credential: password("x")}, is("vm_host.credential")},
		"TLS by password":      {"h", &vmhostv1.VmHost{Address: "qemu+tls://h1/system", Credential: password("x")}, is("vm_host.credential")},
		"TLS with half a pair": {"h", &vmhostv1.VmHost{Address: "qemu+tls://h1/system", Credential: &vmhostv1.Credential{Kind: &vmhostv1.Credential_Tls{Tls: &vmhostv1.TlsCredential{CertificatePem: "x"}}}}, is("vm_host.credential.tls")},
		"TLS with a bad CA":    {"h", &vmhostv1.VmHost{Address: "qemu+tls://h1/system", Credential: &vmhostv1.Credential{Kind: &vmhostv1.Credential_Tls{Tls: &vmhostv1.TlsCredential{CaPem: "x"}}}}, is("vm_host.credential.tls.ca_pem")},
		"no confirmed SSH key": {"h", &vmhostv1.VmHost{Address: sshAddress, Credential: sshCredential(private)}, func() (codes.Code, vmhostv1.ErrorReason, string) {
			return codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_KEY_REQUIRED, "vm_host.host_key"
		}},
		"no confirmed TLS key": {"h", &vmhostv1.VmHost{Address: "qemu+tls://h1/system"}, func() (codes.Code, vmhostv1.ErrorReason, string) {
			return codes.FailedPrecondition, vmhostv1.ErrorReason_HOST_KEY_REQUIRED, "vm_host.host_key"
		}},
	} {
		for _, validateOnly := range []bool{true, false} {
			_, err := f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: tc.id, VmHost: tc.host, ValidateOnly: validateOnly})
			code, reason, path := tc.want()
			wantReason(t, name, err, code, reason, path)
		}
	}
	list, err := f.hosts.ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{})
	if err != nil || len(list.GetVmHosts()) != 0 {
		t.Errorf("something half-made stayed behind: %v, %v", list, err)
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

func lockedKey(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func TestANameAndAnAddressAreTakenOnce(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	f.addHost(ctx, "h1")
	_, err := f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h1", VmHost: &vmhostv1.VmHost{Address: "fake://other"}})
	wantReason(t, "the name", err, codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS)
	_, err = f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h2", VmHost: &vmhostv1.VmHost{Address: "fake://h1"}})
	wantReason(t, "the address", err, codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS, "vm_host.address")

	// An address that was given up can be taken again.
	if _, err := f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{
		VmHost: &vmhostv1.VmHost{Name: "vmHosts/h1", Address: "fake://new"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"address"}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err = f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h2", VmHost: &vmhostv1.VmHost{Address: "fake://h1"}}); err != nil {
		t.Error(err)
	}
}

func TestALocalAddressNeedsTheRackWhenSeveralHaveTheSocket(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	add := func(id, rack string) (*vmhostv1.VmHost, error) {
		return f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: id, VmHost: &vmhostv1.VmHost{Address: "qemu:///system", Rack: rack}})
	}
	session := func(rack string) {
		tx := store.NewTxn()
		store.Put(tx, store.Racks, &storev1.StoredRack{Resource: &vmhostv1.Rack{Name: "racks/" + rack, Uid: rack, Zone: "zones/default"}}, rack)
		store.Put(tx, store.Sessions, &storev1.StoredSession{Drivers: []string{"libvirt"}, LocalSockets: []string{""}}, rack)
		f.commit(tx)
	}
	session("r1")
	h, err := add("h1", "")
	if err != nil || h.GetRack() != "racks/r1" {
		t.Fatalf("with one rack: %v, %v", h, err)
	}
	session("r2")
	_, err = add("h2", "")
	wantReason(t, "with two racks", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "vm_host.rack")
	if _, err := add("h2", "racks/r2"); err != nil {
		t.Errorf("the other rack's own socket: %v", err)
	}
	_, err = add("h3", "racks/r1")
	wantReason(t, "the same socket", err, codes.AlreadyExists, vmhostv1.ErrorReason_ALREADY_EXISTS)
	_, err = f.racks.DeleteRack(ctx, &vmhostv1.DeleteRackRequest{Name: "racks/r1"})
	wantReason(t, "a rack that a host names", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	if !strings.Contains(err.Error(), "vmHosts/h1") {
		t.Errorf("%v does not name the host", err)
	}
}

func TestAnUpdateChangesWhatTheMaskNamesAndNothingElse(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	update := func(in *vmhostv1.VmHost, paths ...string) (*vmhostv1.VmHost, error) {
		in.Name = "vmHosts/h1"
		return f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{VmHost: in, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	}
	got, err := update(&vmhostv1.VmHost{DisplayName: "One", Tags: []string{"x"}, Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(3), Memory: proto.Float64(5)}}, "display_name", "overcommit.cores")
	if err != nil {
		t.Fatal(err)
	}
	if got.GetDisplayName() != "One" || len(got.GetTags()) != 0 || got.GetOvercommit().GetCores() != 3 || got.GetOvercommit().GetMemory() != 1 || got.GetEtag() == h.GetEtag() {
		t.Errorf("got %v", got)
	}
	stored := func() *storev1.StoredVmHost {
		r, _ := store.VmHosts.Get(f.store.Cached(), "h1")
		return r.Value
	}
	version := stored().GetConnectionVersion()
	if got, err = update(&vmhostv1.VmHost{Credential: password("pw")}, "credential.password"); err != nil || got.GetCredentialKind() != "password" {
		t.Errorf("a credential: %v, %v", got, err)
	}
	if stored().GetConnectionVersion() == version {
		t.Error("a new credential is not tried")
	}
	if got, err = update(&vmhostv1.VmHost{}, "credential"); err != nil || got.GetCredentialKind() != "none" {
		t.Errorf("no credential: %v, %v", got, err)
	}
	if _, ok := store.Secrets.Get(f.store.Cached(), "vmHosts", "h1"); ok {
		t.Error("a credential that was taken away is still kept")
	}
	for name, paths := range map[string][]string{
		"no mask": nil, "only the name": {"name", "etag"}, "an unknown path": {"colour"}, "a star": {"*"}, "an unknown ratio": {"overcommit.disk"},
		"the uid": {"uid"}, "the type": {"type"}, "the state": {"state"}, "what is seen": {"observation"}, "the cordon": {"cordoned"},
	} {
		_, err := update(&vmhostv1.VmHost{}, paths...)
		wantReason(t, name, err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "update_mask")
	}
	_, err = update(&vmhostv1.VmHost{Address: "qemu:///system"}, "address")
	wantReason(t, "another hypervisor", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "vm_host.address")
	f.ready(h)
	_, err = update(&vmhostv1.VmHost{DefaultStoragePool: "none"}, "default_storage_pool")
	wantReason(t, "an unknown storage pool", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "vm_host.default_storage_pool")
	if _, err = update(&vmhostv1.VmHost{DefaultStoragePool: "default"}, "default_storage_pool"); err != nil {
		t.Error(err)
	}
	_, err = f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{VmHost: &vmhostv1.VmHost{Name: "vmHosts/none"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"tags"}}})
	wantReason(t, "an unknown host", err, codes.NotFound, vmhostv1.ErrorReason_NOT_FOUND)
	_, err = f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{VmHost: &vmhostv1.VmHost{}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"tags"}}})
	wantReason(t, "no name", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "vm_host.name")
}

func TestAStaleEtagIsRefused(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	fresh, err := f.hosts.CordonVmHost(ctx, &vmhostv1.CordonVmHostRequest{Name: h.GetName(), Etag: h.GetEtag()})
	if err != nil || !fresh.GetCordoned() {
		t.Fatalf("%v, %v", fresh, err)
	}
	_, err = f.hosts.UncordonVmHost(ctx, &vmhostv1.UncordonVmHostRequest{Name: h.GetName(), Etag: h.GetEtag()})
	wantReason(t, "uncordon", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	_, err = f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{VmHost: &vmhostv1.VmHost{Name: h.GetName(), Etag: h.GetEtag()}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"tags"}}})
	wantReason(t, "update", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	_, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: h.GetName(), Etag: h.GetEtag()})
	wantReason(t, "delete", err, codes.Aborted, vmhostv1.ErrorReason_ETAG_MISMATCH)
	if _, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: h.GetName(), Etag: fresh.GetEtag()}); err != nil {
		t.Error(err)
	}
}

func TestARepeatedRequestIsAnsweredOnceAndAnotherBodyIsRefused_P2(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	req := &vmhostv1.CreateVmHostRequest{VmHostId: "h1", VmHost: &vmhostv1.VmHost{Address: "fake://a", Credential: password("one")}, RequestId: uuid.NewString()}
	first, err := f.hosts.CreateVmHost(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.hosts.CreateVmHost(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	other := proto.CloneOf(req)
	other.VmHost.Credential = password("two")
	_, err = f.hosts.CreateVmHost(ctx, other)
	wantReason(t, "another password", err, codes.InvalidArgument, vmhostv1.ErrorReason_REQUEST_ID_REUSED, "request_id")
	_, err = f.hosts.CordonVmHost(ctx, &vmhostv1.CordonVmHostRequest{Name: "vmHosts/h1", RequestId: req.GetRequestId()})
	wantReason(t, "another method", err, codes.InvalidArgument, vmhostv1.ErrorReason_REQUEST_ID_REUSED)
	_, err = f.hosts.CordonVmHost(ctx, &vmhostv1.CordonVmHostRequest{Name: "vmHosts/h1", RequestId: "seven"})
	wantReason(t, "no UUID", err, codes.InvalidArgument, vmhostv1.ErrorReason_INVALID_FIELD, "request_id")
	// Another principal has request ids of its own.
	if _, err = f.hosts.CordonVmHost(f.as(storev1.Role_ROLE_OPERATOR), &vmhostv1.CordonVmHostRequest{Name: "vmHosts/h1", RequestId: req.GetRequestId()}); err != nil {
		t.Error(err)
	}
	remove := &vmhostv1.DeleteVmHostRequest{Name: "vmHosts/h1", RequestId: uuid.NewString(), Forget: true}
	for range 2 {
		if _, err := f.hosts.DeleteVmHost(ctx, remove); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
}

func TestAHostWithMachinesGoesOnlyWhenTheyAreForgotten_P5(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	h := f.addHost(ctx, "h1")
	f.ready(h)
	var names []string
	if _, err := f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{
		VmHost:     &vmhostv1.VmHost{Name: h.GetName(), Overcommit: &vmhostv1.OvercommitRatios{Cores: proto.Float64(10), Memory: proto.Float64(10)}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"overcommit"}},
	}); err != nil {
		t.Fatal(err)
	}
	for range 2*forgetBatch + 10 { // more than two transactions hold
		names = append(names, f.compose(ctx, "").GetTarget())
	}
	for _, name := range names {
		f.see(h, &rackv1.MachineObservation{Uuid: name[len("machines/"):], Name: "x"})
	}
	_, err := f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: h.GetName()})
	wantReason(t, "delete", err, codes.FailedPrecondition, vmhostv1.ErrorReason_IN_USE)
	_, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: h.GetName(), Forget: true})
	wantReason(t, "while they are made", err, codes.FailedPrecondition, vmhostv1.ErrorReason_MACHINE_BUSY)
	for _, name := range names {
		f.settle(name)
	}
	if _, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: h.GetName(), Forget: true, ValidateOnly: true}); err != nil {
		t.Errorf("validate_only: %v", err)
	}
	if list, err := f.mach.ListMachines(ctx, &vmhostv1.ListMachinesRequest{PageSize: 1000}); err != nil || len(list.GetMachines()) != len(names) {
		t.Fatalf("validate_only forgot machines: %d, %v", len(list.GetMachines()), err)
	}
	if _, err = f.hosts.DeleteVmHost(ctx, &vmhostv1.DeleteVmHostRequest{Name: h.GetName(), Forget: true}); err != nil {
		t.Fatal(err)
	}
	v := f.store.Cached()
	left := map[string]int{}
	count(left, "hosts", store.VmHosts, v)
	count(left, "observed", store.Observed, v)
	count(left, "ledger", store.Ledgers, v)
	count(left, "machines", store.Machines, v)
	count(left, "names", store.Names, v)
	count(left, "seen", store.Seen, v)
	count(left, "addresses", store.Addresses, v)
	count(left, "assignments", store.Assignments, v)
	count(left, "references", store.References, v)
	if len(left) != 0 {
		t.Errorf("records stayed behind: %v", left)
	}
}

func count[T proto.Message](into map[string]int, name string, family store.Family[T], v *store.View) {
	for range family.All(v) {
		into[name]++
	}
}

func TestSecretsAreInNoAnswerLogOrValue_P8(t *testing.T) {
	f := start(t)
	ctx := f.admin()
	const canary = "CANARY-hunter2-CANARY"
	private, public := sshKeys(t)
	body := strings.Join(strings.Split(private, "\n")[1:3], "")
	create := &vmhostv1.CreateVmHostRequest{VmHostId: "h1", VmHost: &vmhostv1.VmHost{Address: "qemu+ssh://root@h1/system", HostKey: public, Credential: password(canary)}, RequestId: uuid.NewString()}
	var answers strings.Builder
	record := func(m proto.Message, err error) {
		if err != nil {
			answers.WriteString(err.Error())
		}
		if m != nil {
			b, _ := proto.Marshal(m)
			answers.Write(b)
		}
	}
	record(f.hosts.CreateVmHost(ctx, create))
	record(f.hosts.CreateVmHost(ctx, create))
	record(f.hosts.GetVmHost(ctx, &vmhostv1.GetVmHostRequest{Name: "vmHosts/h1"}))
	record(f.hosts.ListVmHosts(ctx, &vmhostv1.ListVmHostsRequest{Filter: `credential.password:"CANARY" OR name:"h1"`}))
	record(f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{VmHost: &vmhostv1.VmHost{Name: "vmHosts/h1", Credential: sshCredential(private)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"credential"}}, RequestId: uuid.NewString()}))
	record(f.hosts.UpdateVmHost(ctx, &vmhostv1.UpdateVmHostRequest{VmHost: &vmhostv1.VmHost{Name: "vmHosts/h1", Credential: sshCredential(canary)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"credential"}}}))
	record(f.hosts.CreateVmHost(ctx, &vmhostv1.CreateVmHostRequest{VmHostId: "h2", VmHost: &vmhostv1.VmHost{Address: "qemu+tls://h2/system", Credential: &vmhostv1.Credential{Kind: &vmhostv1.Credential_Tls{Tls: &vmhostv1.TlsCredential{CertificatePem: canary, PrivateKeyPem: canary}}}}}))
	record(f.hosts.CheckVmHost(ctx, &vmhostv1.CheckVmHostRequest{Address: "qemu+ssh://root:" + canary + "@h1/system"}))
	f.ready(&vmhostv1.VmHost{Name: "vmHosts/other", Uid: "x"})
	record(f.hosts.CheckVmHost(ctx, &vmhostv1.CheckVmHostRequest{Address: "qemu+ssh://root@h1/system", Credential: password(canary), RequestId: uuid.NewString()}))
	record(f.events.ListEvents(ctx, &vmhostv1.ListEventsRequest{}))
	record(f.ops.ListOperations(ctx, &vmhostv1.ListOperationsRequest{}))

	join, err := f.racks.CreateJoinToken(ctx, &vmhostv1.CreateJoinTokenRequest{RackId: "r9"})
	if err != nil {
		t.Fatal(err)
	}
	record(f.racks.ListJoinTokens(ctx, &vmhostv1.ListJoinTokensRequest{}))

	values := string(storetest.Dump(t, f.store))
	secretPart, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(join.GetToken(), "vmhj1."))
	if err != nil {
		t.Fatal(err)
	}
	joinSecret := between(string(secretPart), `"secret":"`, `"`)
	for where, text := range map[string]string{"an answer": answers.String(), "the log": f.log.String(), "the store": values} {
		for what, needle := range map[string]string{"the password": canary, "the key": body[:40], "the join token": join.GetToken(), "its secret": joinSecret} {
			if strings.Contains(text, needle) {
				t.Errorf("%s is in %s", what, where)
			}
		}
	}
	// The canary is really there, encrypted: otherwise this test proves nothing.
	r, ok := store.Secrets.Get(f.store.Cached(), "vmHosts", "h1")
	if !ok {
		t.Fatal("no credential is kept")
	}
	plain, err := f.secrets.Decrypt(store.Secrets.Key("vmHosts", "h1"), r.Value.GetCiphertext())
	if err != nil || !strings.Contains(string(plain), body[:20]) {
		t.Errorf("the kept credential is not the one that was sent: %v", err)
	}
}

func between(s, before, after string) string {
	_, rest, _ := strings.Cut(s, before)
	in, _, _ := strings.Cut(rest, after)
	return in
}
