//! What to do about each code, for the page of error codes and `hostler explain`.

use super::Code;

impl Code {
    /// Whether it is a failed task's, and never an answer's status by itself: those stand last in the list.
    pub const fn is_of_tasks(self) -> bool {
        self as usize >= Code::AttemptsExhausted as usize
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Code::ValidationError => {
                "The fact `field` names the field, `detail` what it must be. Fields that do not exist are refused too, so that a typing error is not taken for a default: `/docs` shows those there are."
            }
            Code::MalformedBody => {
                "Send JSON in UTF-8, with `Content-Type: application/json`. `detail` says where reading stopped."
            }
            Code::BodyTooLarge => {
                "The fact `limit` is what is read at most, in bytes. Large things are uploaded as images, in a stream."
            }
            Code::Unauthenticated => {
                "Send `Authorization: Bearer <token>`. The command line takes it from the context or from `HOSTLER_TOKEN`; `hostler dev` writes one for its user when it starts."
            }
            Code::Forbidden => {
                "The facts say which role, scope or audience is needed and which the credential has. Ask for a credential with that."
            }
            Code::ForbiddenOwnership => {
                "The body's `tenant` is not the one that the credential acts for. Leave it out; a platform's administrator names the tenant in the address, as `?tenant=NAME`."
            }
            Code::TenantIdRequired => {
                "Your credential belongs to no tenant. Name the one that this is for in the address, as `?tenant=NAME`; the command line has `--tenant`."
            }
            Code::NotFound => {
                "The path or the thing does not exist, or belongs to another tenant. `/docs` lists the routes."
            }
            Code::TaskNotFound => "`hostler task list` shows the tasks there are. History is kept for a limited time.",
            Code::VmNotFound => {
                "`hostler vm list` shows the machines there are; deleted ones are shown with `--state deleted`."
            }
            Code::ImageNotFound => {
                "`hostler image list` shows the images there are; `hostler image import` brings one."
            }
            Code::SnapshotNotFound => {
                "`hostler snapshot list --vm NAME` shows the snapshots of a machine. They go with their machine."
            }
            Code::SnapshotStateConflict => {
                "`hostler snapshot show` says its state and why. One that is being made or deleted is waited for; one in error can only be deleted."
            }
            Code::SnapshotLimit => {
                "Delete snapshots of the machine that are not needed. Where the detail speaks of layers, one deletion is enough: it merges all that no snapshot needs."
            }
            Code::SnapshotUnusable => {
                "The detail says what does not fit. A snapshot with memory needs the processors and the memory that it was taken with, and the same hypervisor on its node; a damaged one can only be deleted."
            }
            Code::TokenNotFound => "`hostler token list` shows the tokens that you may see, by their ids.",
            Code::ServiceAccountNotFound => {
                "`hostler service-account list` shows the accounts of the tenant; `hostler service-account create` makes one."
            }
            Code::NodeNotFound => "`hostler node list` shows the nodes there are.",
            Code::MethodNotAllowed => "The route exists under another method: `/docs` shows which.",
            Code::UnknownAction => "The detail lists the kinds there are.",
            Code::NameTaken => {
                "Choose another name, or delete the thing that has it: the facts say its id. Names of deleted things are free."
            }
            Code::VmStateConflict => {
                "`hostler vm show` says the machine's state, and the task that is changing it. Bring it into the state that is asked for (start, stop, resume) or wait for the task."
            }
            Code::TaskStateConflict => {
                "A task that has ended stays as it is: `hostler task retry` makes a new one like it."
            }
            Code::NodeStateConflict => {
                "`hostler node show` says the node's state: it may wait for approval, be cordoned, or be cordoned already."
            }
            Code::KeyNotFound => "`hostler key list` shows the keys that sign tasks, by their whole names.",
            Code::KeyStateConflict => {
                "`hostler key list` says the keys' states. The one that signs is followed by another (`hostler key stage`, then `activate`) before it is retired."
            }
            Code::QuotaExceeded => {
                "The fact `over` says, for each amount, limit, used, held and asked. Delete or shrink something, wait for work that holds an amount, or ask for a higher limit."
            }
            Code::TenantInUse => {
                "The fact `remains` says how many of what the tenant has. Delete its machines and images, let its tasks end, delete its service accounts and revoke its tokens. The default tenant stays."
            }
            Code::NoCapacity => {
                "The facts say for every node why not. Ask for less, free room, uncordon or add a node."
            }
            Code::IdempotencyMismatch => {
                "An `Idempotency-Key` stands for one body for 24 hours. Use a new key for a new request."
            }
            Code::StaleFence => {
                "An agent's report of an attempt that is over: a later one was given. Nothing needs to be done; agents forget it."
            }
            Code::IdentityMismatch => {
                "An agent used the certificate of another node or of an earlier enrolment. Let the node join again."
            }
            Code::JoinTokenInvalid => "Join tokens work once and for a short time. Make a new one on the server.",
            Code::CsrInvalid => {
                "The agent's certificate request was damaged on the way, or is not one. Update the agent, let it join again."
            }
            Code::CursorInvalid => {
                "Pass `next` of the page before as it is, with the same filters; or begin without a cursor."
            }
            Code::CursorExpired => {
                "What followed is no longer kept. Read the present state, then follow events from now on."
            }
            Code::Overloaded => {
                "Too much arrives at once. Repeat after the seconds of `Retry-After`, with the same `Idempotency-Key`."
            }
            Code::RateLimited => {
                "You call more often than this server allows with one token, or from one address. Wait for the seconds of `Retry-After`, follow `/events` in place of asking again and again, and send what belongs together in one batch."
            }
            Code::Unavailable => {
                "The server is starting or going away, or its database does not answer. Repeat in a moment, with the same `Idempotency-Key`."
            }
            Code::ImageUnsafe => {
                "The detail says what the file refers to or claims. Export it anew without a backing or data file (`qemu-img convert`), and import that."
            }
            Code::ImageInUse => {
                "The facts say which machines use it: delete them first. New machines can be given another image at once."
            }
            Code::ImportFailed => {
                "The detail says at which step: fetching, verifying or converting. Nothing of it was kept; mend the cause and import again."
            }
            Code::ImportNotFound => "`hostler image list` shows what came of earlier imports; begin the import again.",
            Code::UploadConflict => {
                "`GET /api/v1/blobs/{sha256}` says how many bytes are here: go on from there with `Content-Range`. While somebody else sends the same bytes, wait."
            }
            Code::SourceForbidden => {
                "The server reads from public addresses and from folders that its operator named. Upload the file instead, or let the operator allow the source."
            }
            Code::VmProtected => {
                "Lift the protection first, if the machine is really to go: `hostler vm edit NAME --unprotect`."
            }
            Code::PortTaken => {
                "`detail` says who has the port. Choose another, or 0 to let the node choose: `hostler vm edit NAME --publish 80`."
            }
            Code::DiskShrink => {
                "A disk only grows: what lies at its end may be in use. Make a new, smaller machine and copy what it needs."
            }
            Code::PreconditionFailed => {
                "Read the thing again, look at what changed, and send the change with the new `ETag`."
            }
            Code::StorageFull => {
                "The disk under the server's data folder is full: reads still work. Free space there; nothing that was answered is lost."
            }
            Code::Internal => {
                "A fault of the server. Its log says more under the request's id; repeating with the same `Idempotency-Key` is safe."
            }
            Code::AttemptsExhausted => {
                "Every attempt failed or its lease ran out. `hostler task show` has the last failure; mend the cause, then `hostler task retry`."
            }
            Code::DeadlineExceeded => {
                "The task was not done in time, or nobody took it in time. Look at the node and at the queue, then retry, with more time where that is right."
            }
            Code::OutcomeUnknown => {
                "The agent died in the middle of something that must not be done twice. Look at the machine, then decide: it is never retried by itself."
            }
            Code::Cancelled => "Somebody asked for it. `hostler task retry` makes a new task like it.",
            Code::TaskRefused => {
                "The agent did not accept the task's signature, audience, time, fence or epoch, or could not read it. Check both clocks and versions; the agent's log says which."
            }
            Code::AgentCapabilityUnsupported => {
                "Update the agent, or send the task to a node that can: `hostler node show` lists capabilities."
            }
            Code::ImageFetchFailed => {
                "The node could not fetch the image, or its bytes were not those of its digest. The detail says which; import it again if the server's copy is damaged."
            }
            Code::HypervisorFailed => {
                "The detail has what the hypervisor said and the console's last lines. `hostler doctor` checks the hypervisor of this host."
            }
            Code::GuestNotReady => {
                "The guest did not answer in time. The detail has the console's last lines. Give it more time, choose another readiness, or use an image with a guest agent."
            }
            Code::GuestFailed => {
                "The guest agent refused or broke off. The detail says what it said; the program may not exist in the guest."
            }
            Code::NodeStorageFull => {
                "The disk under the node's data folder is full. Free space there or delete machines, then retry."
            }
            Code::HandlerFailed => "The detail says what failed on the node. Retry when that is mended.",
            Code::Injected => "A fault that a test asked the simulated hypervisor for.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_what_to_do_in_a_sentence() {
        for code in Code::ALL {
            let remedy = code.remedy();
            assert!(remedy.len() > 30 && remedy.ends_with('.'), "{code}: {remedy}");
        }
        assert!(!Code::Internal.is_of_tasks() && Code::OutcomeUnknown.is_of_tasks());
    }
}
