//! A sequencer whose way to NATS is cut in the middle of its turn, and heals.

use anyhow::Result;
use fastrand::Rng;

use crate::chaos::under_load;
use crate::on_a_deployment;
use crate::proxy::Proxy;
use crate::server::until;

/// How often the way is cut.
const CUTS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_overtaken_and_what_it_still_sends_when_it_is_back_does_no_harm()
-> Result<()> {
    const NEAR: usize = 0;
    on_a_deployment(0, async |deployment| {
        deployment.start_publishers(1)?;
        let proxy = Proxy::before(deployment.server_address(0)).await?;
        let far = deployment.start_far_sequencer(&format!("nats://{}", proxy.address))?;
        let rng = Rng::with_seed(7);
        let acknowledged = under_load(deployment, rng, async |deployment, _lanes| {
            for _ in 0..CUTS {
                let is_up = |said: &str| said.matches("standing by, up with the log").count();
                until("the far one stands by", async || {
                    Ok((is_up(&deployment.sequencers[far].said()) > 0).then_some(()))
                })
                .await?;
                deployment.sequencers[NEAR].kill()?;
                until("the far one leads", async || {
                    Ok(deployment.sequencers[far].is_leading().then_some(()))
                })
                .await?;
                let before = is_up(&deployment.sequencers[NEAR].said());
                deployment.sequencers[NEAR].spawn()?;
                until("the near one stands by", async || {
                    Ok((is_up(&deployment.sequencers[NEAR].said()) > before).then_some(()))
                })
                .await?;
                let turns = deployment.sequencers[NEAR].turns();
                // Under load, so that there are blocks and answers on the way.
                proxy.cut();
                until("the near one leads", async || {
                    Ok((deployment.sequencers[NEAR].turns() > turns).then_some(()))
                })
                .await?;
                proxy.heal();
                until("the far one knows", async || {
                    Ok((!deployment.sequencers[far].is_leading()).then_some(()))
                })
                .await?;
            }
            Ok(())
        })
        .await?;
        println!("{acknowledged} commands acknowledged, all there");
        Ok(())
    })
    .await
}
