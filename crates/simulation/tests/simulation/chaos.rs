//! What goes wrong while the users live: servers and agents die, the network is cut or foul, clocks jump, hosts and
//! machines go down. Several of these at once; each is over by itself after a while.

use std::{sync::Arc, time::Duration};

use hostler_model::{event::Actor, node::NodeEvent};
use hostler_store::Queue;
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, sleep},
};

use crate::{
    dice::Dice,
    net::{End, Net, Weather},
    node::Host,
    server::Site,
};

/// How many turns of the scheduler a death may come after a message has arrived: at any await point of what that begins.
const TURNS: u64 = 60;

/// What can be hit.
#[derive(Clone)]
pub struct World {
    pub dice: Dice,
    pub net: Net,
    pub site: Arc<Site>,
    pub hosts: Vec<Arc<Host>>,
    pub users: usize,
}

#[derive(Clone, Copy)]
enum Blow {
    Server,
    Agent,
    Cut,
    Weather,
    Clock,
    HostDown,
    Rejoin,
    Full,
    Machine,
    Operator,
}

/// What happens, and how often.
const BLOWS: &[(u64, Blow)] = &[
    (5, Blow::Server),
    (7, Blow::Agent),
    (6, Blow::Cut),
    (4, Blow::Weather),
    (3, Blow::Clock),
    (1, Blow::HostDown),
    (1, Blow::Rejoin),
    (2, Blow::Full),
    (3, Blow::Machine),
    (2, Blow::Operator),
];

impl World {
    /// Strikes until then, and returns when everything is well again.
    pub async fn rage(&self, until: Instant) {
        let mut blows = JoinSet::new();
        while Instant::now() < until && self.net.trace().is_well() {
            sleep(self.dice.ms(100..6000)).await;
            let (world, blow) = (self.clone(), self.dice.weighed(BLOWS));
            blows.spawn(async move { world.strike(blow).await });
        }
        while blows.join_next().await.is_some() {}
        self.heal().await;
    }

    async fn heal(&self) {
        self.net.weather(Weather::fair());
        self.ends().into_iter().for_each(|end| self.net.mend(end));
        self.site.wall.set_right();
        self.site.start().await;
        for host in &self.hosts {
            host.wall.set_right();
            self.bring_back(host).await;
            self.order(host, true, false).await;
            self.order(host, false, false).await;
        }
        self.net.trace().note("everything is well again");
    }

    /// Whoever could not join while all went wrong gets a token that is good.
    async fn bring_back(&self, host: &Host) {
        match self.site.join_token(&host.name()).await {
            Some(token) if !host.is_joined() => host.rejoin(token).await,
            _ => host.start().await,
        }
    }

    /// Lets time pass for everybody, in which nothing happens.
    pub fn pass(&self, time: Duration) {
        self.net.trace().note(format!("{} s pass", time.as_secs()));
        self.site.wall.pass(time);
        self.hosts.iter().for_each(|host| host.wall.pass(time));
    }

    fn ends(&self) -> Vec<End> {
        let nodes = self.hosts.iter().map(|host| End::Node(host.number));
        nodes.chain((0..self.users).map(End::User)).collect()
    }

    async fn strike(&self, blow: Blow) {
        let dice = self.dice.apart();
        let Some(host) = dice.one(&self.hosts).cloned() else { return };
        match blow {
            Blow::Server => {
                self.some_moment(&dice).await;
                self.site.crash().await;
                sleep(down(&dice)).await;
                self.site.start().await;
            }
            Blow::Agent => {
                self.some_moment(&dice).await;
                host.crash().await;
                sleep(down(&dice)).await;
                host.start().await;
            }
            Blow::Cut => self.cut(&dice).await,
            Blow::Weather => self.net.weather(if dice.happens(0.3) { Weather::fair() } else { Weather::foul(&dice) }),
            Blow::Clock => self.jump(&dice, &host),
            Blow::HostDown => {
                host.crash().await;
                self.net.trace().note(format!("{} goes down", host.name()));
                host.machines.reboot();
                sleep(down(&dice)).await;
                host.start().await;
            }
            Blow::Rejoin => {
                if let Some(token) = self.site.join_token(&host.name()).await {
                    host.rejoin(token).await;
                }
            }
            Blow::Full => self.fill(&dice, &host).await,
            Blow::Machine => self.machine(&dice, &host),
            Blow::Operator => self.operate(&dice, &host).await,
        }
    }

    /// A moment at which something is under way: a message has just arrived, and some of what it begins is done.
    async fn some_moment(&self, dice: &Dice) {
        self.net.busy().await;
        for _ in 0..dice.within(0..TURNS) {
            yield_now().await;
        }
    }

    async fn cut(&self, dice: &Dice) {
        let Some(end) = dice.one(&self.ends()).copied() else { return };
        self.net.trace().note(format!("{end} is cut off"));
        self.net.cut(end);
        sleep(down(dice) * 2).await;
        self.net.mend(end);
        self.net.trace().note(format!("{end} is back"));
    }

    /// A disk is full for a while: the server's, or an agent's.
    async fn fill(&self, dice: &Dice, host: &Host) {
        let servers = dice.happens(0.5);
        let whose = if servers { "the server".to_owned() } else { host.name() };
        let fill = |full| if servers { self.site.fill(full) } else { host.fill(full) };
        self.net.trace().note(format!("the disk of {whose} is full"));
        fill(true);
        sleep(down(dice)).await;
        fill(false);
        self.net.trace().note(format!("the disk of {whose} has room again"));
    }

    fn jump(&self, dice: &Dice, host: &Host) {
        let most = dice.weighed(&[(4, 2_000_u64), (3, 60_000), (1, 7_200_000)]);
        let micros = i64::try_from(dice.within(1..most) * 1000).unwrap_or_default();
        let by = if dice.happens(0.5) { micros } else { -micros };
        let (whose, wall) =
            if dice.happens(0.5) { ("the server".to_owned(), &self.site.wall) } else { (host.name(), &host.wall) };
        self.net.trace().note(format!("the clock of {whose} jumps by {by} us"));
        wall.jump(by);
    }

    /// An operator keeps a node from new machines, or from all work, for a while.
    async fn operate(&self, dice: &Dice, host: &Host) {
        let pause = dice.happens(0.5);
        self.order(host, pause, true).await;
        sleep(down(dice) * 2).await;
        self.order(host, pause, false).await;
    }

    /// Where nobody answers, nothing is changed.
    async fn order(&self, host: &Host, pause: bool, on: bool) {
        let Some(live) = self.net.server() else { return };
        let Ok(Some(node)) = live.store.node_by_name(host.name().parse().expect("it is a name")).await else { return };
        let actor = Actor::system();
        let queue = if on { Queue::Paused } else { Queue::Open };
        let event = if on { NodeEvent::Cordon } else { NodeEvent::Uncordon };
        let done = match pause {
            true => live.store.queue_node(node.id, queue, actor).await,
            false => live.store.change_node(node.id, event, actor).await,
        };
        // One that is so already is refused.
        drop(done);
    }

    fn machine(&self, dice: &Dice, host: &Host) {
        let plans = host.machines.plans();
        let Some(id) = dice.one(&plans).map(|plan| plan.id) else { return };
        let hit = match dice.within(0..3) {
            0 => host.machines.crash(id, "the simulation killed it"),
            1 => host.machines.turn_off(id),
            _ => host.machines.fail_io(id),
        };
        self.net.trace().note(format!("machine {id} is hit: {hit}"));
    }
}

/// How long something stays away: seldom longer than a lease.
fn down(dice: &Dice) -> Duration {
    dice.weighed(&[(5, dice.ms(10..3000)), (3, dice.ms(3000..20_000)), (1, dice.ms(20_000..50_000))])
}
